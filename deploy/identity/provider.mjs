// A real OpenID provider with one user, Yara, and one agent, the assistant, which acts for her with tokens bound to
// its key (DPoP). `node provider.mjs FOLDER PORT`, where FOLDER contains node_modules. It exits at the end of its input.
import { generateKeyPairSync } from 'node:crypto';
import { pathToFileURL } from 'node:url';

const [folder, port] = process.argv.slice(2);
console.warn = console.info = () => {}; // silence notes about the runtime and defaults
const { Provider } = await import(pathToFileURL(`${folder}/node_modules/oidc-provider/lib/index.js`));
const issuer = `http://127.0.0.1:${port}`;
const key = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' });
const calendar = {
  scope: 'calendar:read calendar:write', audience: 'urn:calendar', accessTokenTTL: 300,
  accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } },
};
const provider = new Provider(issuer, {
  clients: [{
    client_id: 'assistant', token_endpoint_auth_method: 'none', redirect_uris: ['http://127.0.0.1/back'],
    application_type: 'native', grant_types: ['authorization_code'], response_types: ['code'],
    dpop_bound_access_tokens: true, id_token_signed_response_alg: 'ES256',
  }],
  jwks: { keys: [{ ...key, kid: 'demo', use: 'sig', alg: 'ES256' }] },
  scopes: ['openid', 'calendar:read', 'calendar:write'],
  features: {
    devInteractions: { enabled: true }, // its own login page, which accepts any password
    dPoP: { enabled: true },
    resourceIndicators: {
      enabled: true, defaultResource: () => 'urn:calendar', useGrantedResource: () => true,
      getResourceServerInfo: () => calendar,
    },
  },
  extraTokenClaims: () => ({ tenant: 'acme' }),
});
provider.listen(Number(port), '127.0.0.1', () => console.log(issuer)).on('error', (error) => {
  console.error(`the provider cannot listen at port ${port}: ${error.code}`);
  process.exit(1);
});
process.stdin.on('end', () => process.exit(0)).resume();
