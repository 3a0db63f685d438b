// Verifies one webhook with the `standardwebhooks` package of npm, as a receiver would.
//
// Reads {"secret", "headers", "body"} from stdin, and prints the type of the message when its signature is right.
const { readFileSync } = require("node:fs");
const { Webhook, WebhookVerificationError } = require("standardwebhooks");

const received = JSON.parse(readFileSync(0, "utf8"));
try {
  console.log(new Webhook(received.secret).verify(received.body, received.headers).type);
} catch (error) {
  if (!(error instanceof WebhookVerificationError)) throw error;
  console.error(`refused: ${error.message}`);
  process.exit(1);
}
