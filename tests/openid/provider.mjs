// An OpenID provider on a free port of the loopback: `oidc-provider` as it comes, with two clients and four kinds of tokens.
//
//   node provider.mjs [--port N] [--clock SECONDS] [--max-age SECONDS]
//
// Says `listening URL` on standard output. Reads commands, a line each, from standard input: `rotate` makes a new key of each kind,
// which signs from then on, and publishes it beside the old ones; `retire` publishes the newest alone. Answers each with `done`. Ends
// with its standard input.

import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';

const { values: options } = parseArgs({
  options: { port: { type: 'string', default: '0' }, clock: { type: 'string', default: '0' }, 'max-age': { type: 'string' } },
});

// A clock that is wrong, for everything that is loaded after this.
const offset = Number(options.clock) * 1000;
if (offset !== 0) {
  const Right = Date;
  globalThis.Date = class extends Right {
    constructor(...given) {
      super(...(given.length === 0 ? [Right.now() + offset] : given));
    }
    static now() {
      return Right.now() + offset;
    }
  };
}

const { Provider } = await import('oidc-provider');
const { exportJWK, generateKeyPair } = await import('jose');

let generation = 0;
async function keys() {
  generation += 1;
  const pairs = ['ES256', 'RS256'].map(async (alg) => {
    const { privateKey } = await generateKeyPair(alg, { extractable: true });
    return { ...(await exportJWK(privateKey)), alg, use: 'sig', kid: `${alg}-${generation}` };
  });
  return Promise.all(pairs);
}

// What a token is for says how it is made.
const resources = {
  'urn:orders': { accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } },
  'urn:orders:rsa': { accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } } },
  'urn:orders:opaque': { accessTokenFormat: 'opaque' },
  'urn:carts': { accessTokenFormat: 'jwt', audience: 'carts', jwt: { sign: { alg: 'ES256' } } },
};

function provider(issuer, jwks) {
  return new Provider(issuer, {
    jwks: { keys: jwks },
    clients: [
      {
        client_id: 'shop',
        client_secret: 'shop-secret',
        grant_types: ['client_credentials'],
        redirect_uris: [],
        response_types: [],
      },
      // Its secret has what must be encoded on the way (RFC 6749 §2.3.1).
      { client_id: 'the-gateway', client_secret: 'gate:way+%41', grant_types: [], redirect_uris: [], response_types: [] },
    ],
    cookies: { keys: ['not used here'] },
    ttl: { ClientCredentials: 600 },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_context, resource) => ({
          scope: 'orders:read orders:write',
          audience: 'orders',
          ...resources[resource],
        }),
      },
    },
  });
}

let published = await keys();
let current;
const server = createServer((request, response) => {
  if (options['max-age'] && request.url.startsWith('/jwks')) {
    response.setHeader('cache-control', `public, max-age=${options['max-age']}`);
  }
  current.callback()(request, response);
});
server.listen(Number(options.port), '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const renew = () => {
    current = provider(issuer, published);
  };
  renew();
  console.log(`listening ${issuer}`);
  const commands = createInterface({ input: process.stdin });
  commands.on('line', async (command) => {
    if (command === 'rotate') published = [...(await keys()), ...published];
    if (command === 'retire') published = published.slice(0, 2);
    renew();
    console.log('done');
  });
  commands.on('close', () => process.exit(0));
});
