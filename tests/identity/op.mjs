// A real OpenID provider on a free port of this machine: `node op.mjs FOLDER SETTINGS`, FOLDER with node_modules in it.
// It prints its issuer, and ends with its standard input. POST /rotate signs with a new key from then on. With `people`,
// anybody signs in with any name and password, as a person of the group that has their name. With `registration`, anybody
// registers a client. `scopes` are those of all APIs.
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import { pathToFileURL } from 'node:url';

const [folder, text] = process.argv.slice(2);
console.warn = console.info = () => {}; // what it says of its runtime and of defaults
const { Provider } = await import(pathToFileURL(`${folder}/node_modules/oidc-provider/lib/index.js`));
const settings = JSON.parse(text);

const keys = [];
const newKey = () => {
  const jwk = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' });
  keys.unshift({ ...jwk, kid: `k${keys.length + 1}`, use: 'sig', alg: 'ES256' });
};
const scopes = settings.scopes ?? ['read', 'write'];
const agent = (client) => ({
  grant_types: ['client_credentials'], redirect_uris: [], response_types: [],
  id_token_signed_response_alg: 'ES256', ...client,
});

let answer;
const server = createServer((request, response) => {
  if (request.method === 'POST' && request.url === '/rotate') {
    renew();
    response.end(keys[0].kid);
  } else {
    answer(request, response);
  }
});
const renew = () => {
  newKey();
  answer = new Provider(`http://127.0.0.1:${server.address().port}`, {
    clients: settings.clients.map(agent),
    jwks: { keys: keys.slice(0, 2) }, // the one before stays for a while, as is usual
    scopes: ['openid', ...scopes],
    features: {
      clientCredentials: { enabled: true }, introspection: { enabled: true },
      devInteractions: { enabled: Boolean(settings.people) }, registration: { enabled: Boolean(settings.registration) },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (ctx, resource) => ({
          scope: scopes.join(' '), audience: resource, accessTokenTTL: 600,
          ...(resource.endsWith('opaque') ? { accessTokenFormat: 'opaque' }
            : { accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } }),
        }),
      },
    },
    ...(settings.registration ? { clientDefaults: { id_token_signed_response_alg: 'ES256' } } : {}),
    ...(settings.people ? {
      claims: { openid: ['sub', 'groups'] }, conformIdTokenClaims: false,
      findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id, groups: [`team-${id}`] }) }),
    } : {}),
    extraTokenClaims: () => ({ groups: ['ops'], tenant: 't1' }),
  }).callback();
};

server.listen(0, '127.0.0.1', () => {
  renew();
  console.log(`http://127.0.0.1:${server.address().port}`);
});
process.stdin.on('end', () => process.exit(0)).resume();
