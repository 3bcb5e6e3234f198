// A real OpenID provider for the demos. Anybody signs in with any name and password. `node provider.mjs FOLDER PORT
// [CONSOLE]`, where FOLDER contains node_modules, and CONSOLE is the URL of the console. It exits at the end of its input.
// Its clients: `assistant`, which acts for a user with tokens bound to its key (DPoP); `refund-agent`, which acts alone;
// and `console`, where people sign in.
import { generateKeyPairSync } from 'node:crypto';
import { pathToFileURL } from 'node:url';

const [folder, port, console_url] = process.argv.slice(2);
console.warn = console.info = () => {}; // silence notes about the runtime and defaults
const { Provider } = await import(pathToFileURL(`${folder}/node_modules/oidc-provider/lib/index.js`));
const issuer = `http://127.0.0.1:${port}`;
const key = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' });
const api = (audience, scope) => ({
  scope, audience, accessTokenTTL: 300, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } },
});
const apis = {
  'urn:calendar': api('urn:calendar', 'calendar:read calendar:write'),
  'urn:refunds': api('urn:refunds', 'refunds'),
};
const clientsOfRefunds = (redirect) => [{
  client_id: 'refund-agent', client_secret: 'demo-secret-of-the-agent', redirect_uris: [], response_types: [],
  grant_types: ['client_credentials'], id_token_signed_response_alg: 'ES256',
}, {
  client_id: 'console', client_secret: 'demo-secret-of-the-console', redirect_uris: [redirect],
  grant_types: ['authorization_code'], response_types: ['code'], id_token_signed_response_alg: 'ES256',
}];
const provider = new Provider(issuer, {
  clients: [{
    client_id: 'assistant', token_endpoint_auth_method: 'none', redirect_uris: ['http://127.0.0.1/back'],
    application_type: 'native', grant_types: ['authorization_code'], response_types: ['code'],
    dpop_bound_access_tokens: true, id_token_signed_response_alg: 'ES256',
  }, ...(console_url ? clientsOfRefunds(`${console_url}/sign-in/callback`) : [])],
  jwks: { keys: [{ ...key, kid: 'demo', use: 'sig', alg: 'ES256' }] },
  scopes: ['openid', 'calendar:read', 'calendar:write', 'refunds'],
  features: {
    devInteractions: { enabled: true }, // its own login page, which accepts any password
    dPoP: { enabled: true }, clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true, useGrantedResource: () => true,
      defaultResource: (ctx, client) => (client.clientId === 'assistant' ? 'urn:calendar' : undefined),
      getResourceServerInfo: (ctx, resource) => apis[resource],
    },
  },
  extraTokenClaims: () => ({ tenant: 'acme' }),
});
provider.listen(Number(port), '127.0.0.1', () => console.log(issuer)).on('error', (error) => {
  console.error(`the provider cannot listen at port ${port}: ${error.code}`);
  process.exit(1);
});
process.stdin.on('end', () => process.exit(0)).resume();
