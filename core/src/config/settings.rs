//! Table of settings: every key with its default and its meaning. `Reader` gets the defaults from it, and
//! `salebell reference settings` prints it.

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Key, such as `server.listen`: `[server] listen` in the file, `SALEBELL_SERVER__LISTEN` in the environment.
    pub key: &'static str,
    /// Value that applies if nothing sets it; empty if there is none.
    pub default: &'static str,
    /// Meaning in one line of Markdown that is readable in a terminal too.
    pub help: &'static str,
}

/// Settings that share the first part of their key.
#[derive(Debug)]
pub struct Area {
    pub name: &'static str,
    /// Subject of the settings, with links to further guides.
    pub about: &'static str,
    pub settings: &'static [Setting],
}

/// Setting with this key.
pub fn find(key: &str) -> Option<&'static Setting> {
    let area = key.split('.').next()?;
    let area = AREAS.iter().find(|other| other.name == area)?;
    area.settings.iter().find(|setting| setting.key == key)
}

const fn setting(key: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { key, default, help }
}

/// All settings, in the order of the reference page.
#[rustfmt::skip]
pub const AREAS: &[Area] = &[
    Area { name: "server", about: "Listeners of the API, and the limits of HTTP. [TLS and load balancers](../guides/tls-and-load-balancers.md) says which settings go together.", settings: &[
        setting("server.listen", "127.0.0.1:8080", "address of the API; port 0 takes a free one"),
        setting("server.public_url", "", "URL at which clients reach this deployment, such as `https://salebell.example.com`, without a path; links in mails and answers begin with it, and it is our own origin for browsers; required with `email.smtp_url`"),
        setting("server.grpc_listen", "127.0.0.1:9000", "address of gRPC; `0.0.0.0:9000` on an instance behind a load balancer; port 0 takes a free one, which the log reports; `off` or empty: no gRPC"),
        setting("server.tls", "off", "TLS of both: `off`; `minted`: a certificate that the process makes at its start; `files`: `server.certificate` and `server.key`"),
        setting("server.certificate", "", "with `files`: path of the certificate and its chain, PEM"),
        setting("server.key", "", "with `files`: path of its private key, PEM"),
        setting("server.metrics_listen", "127.0.0.1:9100", "address of the Prometheus metrics of the API; loopback only"),
        setting("server.request_timeout_s", "30", "time-out of a request with a bounded body"),
        setting("server.header_timeout_s", "10", "time-out of a TLS handshake, and of a request's headers from their first byte on"),
        setting("server.idle_timeout_s", "90", "time-out of an idle connection; longer than the load balancer's own"),
        setting("server.body_idle_timeout_s", "30", "longest pause of a streamed body, and longest time in which a client reads nothing of an answer"),
        setting("server.linger_s", "1", "how long new connections are still accepted after SIGTERM, while readiness already fails"),
        setting("server.drain_s", "25", "how long requests in flight may then take to finish"),
        setting("server.max_connections", "auto", "most connections of a listener at once; further ones get health checks answered, and 503 for everything else. `auto`: from the process's `LimitNOFILE`, less what the database, webhooks and AWS need, with a second descriptor for the file that a connection may carry; 0: no limit"),
        setting("server.max_json_bytes", "1048576", "size of the largest JSON body"),
        setting("server.rate_limits.read", "600", "most requests a minute that change nothing, of one account, or of one address without a token; 0: no limit. `salebell dev` has none of these limits"),
        setting("server.rate_limits.write", "240", "the same for requests that change something"),
        setting("server.rate_limits.heavy", "60", "the same for requests that cost much: search, explanations, exports, imports, tests of channels"),
        setting("server.rate_limit_per_minute", "", "name of earlier versions: the limit of each class above that is not set itself"),
        setting("server.cors_origins", "", "sites whose pages may call the API with a token in a browser: origins such as `https://app.example`, or `*` for all; without it browsers refuse them"),
        setting("server.trusted_proxies", "", "networks of load balancers, whose `X-Forwarded-For`, `X-Forwarded-Proto` and `x-amzn-oidc-data` are trusted"),
    ] },
    Area { name: "database", about: "Connections to PostgreSQL. [IAM in place of a password](../guides/database-iam.md) shows how tokens are set up.", settings: &[
        setting("database.url", "", "URL of the writer; required"),
        setting("database.reader_url", "", "URL for reads that may be a second old; without it they go to the writer"),
        setting("database.reader_max_lag_ms", "5000", "how far the reader may be behind before reads use the writer instead; at least 1000"),
        setting("database.user", "", "the user, when it is not in the URLs"),
        setting("database.password", "", "the password, when it is not in the URLs"),
        setting("database.iam", "false", "log in with tokens of IAM in place of a password; needs `aws.region`"),
        setting("database.max_connections", "20", "most connections of each pool; at least 5"),
        setting("database.acquire_timeout_ms", "3000", "how long a request waits for a connection before it is a 503; up to 10 s while connections are being opened"),
        setting("database.statement_timeout_ms", "30000", "longest time of a statement, and of a pause between two statements of a transaction"),
    ] },
    Area { name: "aws", about: "Where the settings came from. `salebell boot` writes these; see [settings on AWS](../guides/settings-on-aws.md).", settings: &[
        setting("aws.region", "", "region of the parameters and secrets; required with the other two"),
        setting("aws.parameters", "", "path of the settings in Parameter Store, such as `/salebell/prod`"),
        setting("aws.secrets", "", "which setting came from which secret: a list of tables with `setting` and `secret`"),
    ] },
    Area { name: "auth", about: "Whose tokens are accepted beside API keys. [Accept tokens](../guides/accept-tokens.md) has the fields of an issuer, and examples.", settings: &[
        setting("auth.issuers", "", "issuers whose JWTs are accepted: a list of tables in the file, a JSON list in the environment"),
        setting("auth.alb.arn", "", "ARN of the Application Load Balancer whose `x-amzn-oidc-data` is accepted; needs `server.trusted_proxies`"),
        setting("auth.alb.issuer", "", "required value of its `iss`; required with `auth.alb.arn`"),
        setting("auth.alb.client_id", "", "required value of its `client`; required with `auth.alb.arn`"),
        setting("auth.alb.scopes", "", "scopes of every user of a browser: of `catalogue:write`, `prices:write`, `operator`"),
        setting("auth.alb.scope_claim", "", "claim of the user that holds further scopes, a list or a text with spaces"),
        setting("auth.alb.scope_prefix", "", "prefix of each of our scopes in that claim"),
        setting("auth.alb.keys_url", "", "for tests: address of the keys, on loopback; without it AWS's address for the region of `auth.alb.arn`"),
    ] },
    Area { name: "worker", about: "The loops of `salebell worker`.", settings: &[
        setting("worker.metrics_listen", "127.0.0.1:9101", "address of the Prometheus metrics of the worker; loopback only"),
        setting("worker.record_concurrency", "2", "messages of prices that are recorded at once"),
        setting("worker.deliver_concurrency", "256", "deliveries in flight in this process"),
        setting("worker.poll_ms", "1000", "interval at which the queues are polled when no notification comes"),
        setting("worker.lease_s", "60", "time without a sign of life after which another worker takes work over"),
        setting("worker.fanout_slice", "10000", "watches that one transaction of the dispatch handles"),
        setting("worker.scratch", "/var/tmp", "folder in which an import sorts what does not fit into memory; nothing in it has to last"),
        setting("worker.daily_hour", "9", "hour of the day in UTC at which watches of cadence `daily` deliver"),
    ] },
    Area { name: "webhook", about: "Deliveries to receivers. On AWS the network lets webhooks out on port 443 alone, or on 1024 and above too (`WebhookPorts` of the stack `network`); other receivers are unreachable.", settings: &[
        setting("webhook.allow_http", "false", "allow plain http too"),
        setting("webhook.allow_networks", "", "private networks that may be called all the same, such as `127.0.0.0/8`"),
        setting("webhook.connect_timeout_ms", "5000", "time-out of the connection"),
        setting("webhook.timeout_ms", "15000", "time-out of one whole attempt"),
        setting("webhook.in_flight_per_channel", "8", "deliveries to one channel at once, so that a slow receiver does not delay the others"),
        setting("webhook.channels_per_account", "100", "most channels of an account"),
        setting("webhook.encryption_keys", "", "keys that encrypt the channels' secrets, 32 bytes each, as base64 or as 64 hex digits: the first encrypts, all decrypt"),
    ] },
    Area { name: "bus", about: "What carries reported prices, and where events go. All processes need the same settings. [The bus on AWS](../guides/bus-on-aws.md) has queues, rights, and how `bus.kind` is changed.", settings: &[
        setting("bus.kind", "postgres", "what carries reported prices: `postgres`, a table of the database, or `aws`, SNS and SQS"),
        setting("bus.prices_topic", "", "ARN of the SNS topic that prices are published to; required with `aws`, as the next two"),
        setting("bus.prices_queue", "", "URL of the SQS queue that is subscribed to it"),
        setting("bus.prices_dead_queue", "", "URL of its dead-letter queue"),
        setting("bus.events_topic", "", "ARN of an SNS topic that [events](events.md) are published to, with any `bus.kind`; in the same region"),
        setting("bus.endpoint", "", "for tests: address of an SNS and SQS other than those of AWS"),
    ] },
    Area { name: "files", about: "The bytes of uploaded files, and their limits. [Where files are kept](../guides/store-files.md) compares the stores, and has the rights for S3.", settings: &[
        setting("files.store", "directory", "where the bytes of files are: `directory` or `s3`; do not change it while there are files"),
        setting("files.directory", "/var/lib/salebell/files", "a local disk for one instance, EFS for several; with `s3` a local disk where parts are gathered, some 20 MiB for each upload in flight"),
        setting("files.mounted", "false", "`files.directory` is on a file system of its own, such as EFS: a process that finds it on the root's does not start, and one that loses it refuses uploads until it is back"),
        setting("files.efs", "", "DNS name of an EFS file system, such as `fs-0123456789abcdef0.efs.eu-central-1.amazonaws.com`: an instance of the appliance mounts it at `/var/lib/salebell/files`, with TLS. It needs `files.mounted`"),
        setting("files.reserve_bytes", "1073741824", "bytes of its file system that stay free"),
        setting("files.s3_bucket", "", "required with `s3`"),
        setting("files.s3_region", "", "required with `s3`"),
        setting("files.s3_endpoint", "", "address of an S3 outside AWS; the only one that may be plain http"),
        setting("files.s3_prefix", "files", "folder of the bucket that belongs to this deployment alone"),
        setting("files.s3_kms_key", "", "KMS key that encrypts objects; without it the bucket's default applies"),
        setting("files.presign", "true", "redirect downloads to S3, with an address that is valid for a minute"),
        setting("files.max_bytes", "6442450944", "size of the largest file"),
        setting("files.bytes_per_account", "53687091200", "most bytes of all files of an account together"),
        setting("files.files_per_account", "1000", "most files of an account, finished or not"),
        setting("files.uploads_in_flight", "500", "requests that send bytes to one process at once"),
        setting("files.uploads_in_flight_per_account", "32", "the same of one account"),
        setting("files.min_bytes_per_minute", "4096", "an upload or NDJSON report that sends less is ended; what was sent of an upload is kept"),
        setting("files.slow_after_s", "60", "how long it may be that slow before"),
    ] },
    Area { name: "email", about: "The mail server. Ports: 465 for `smtps://`, 587 for `smtp://` with a password, 25 without. User and password in the URL are percent-encoded, `email.user` and `email.password` are not. On AWS the network lets out `MailPort` of the stack `network`.", settings: &[
        setting("email.smtp_url", "", "the mail server: `smtp://host:port` or `smtps://host:port`, with `user:password@` before the host if need be; without it no mail is sent"),
        setting("email.user", "", "the user, when it is not in `email.smtp_url`"),
        setting("email.password", "", "the password, when it is not in `email.smtp_url`"),
        setting("email.from", "", "the sender, such as `Salebell <salebell@example.com>`; required with `email.smtp_url`"),
        setting("email.starttls", "auto", "for `smtp://`: `required`, with a valid certificate; `offered`: used if offered, with any certificate; `off`. `auto`: `required` with a password, `offered` without. A password is sent in the clear to loopback alone"),
        setting("email.ca_file", "", "path of certificates (PEM) of authorities that are trusted in addition to the system's"),
        setting("email.timeout_s", "60", "time-out of one whole message"),
    ] },
    Area { name: "instance", about: "An instance in an Auto Scaling group: [its life](../concepts/instance-lifecycle.md). `AWS_EC2_METADATA_SERVICE_ENDPOINT` names a metadata service other than 169.254.169.254, and `AWS_ENDPOINT_URL_AUTO_SCALING` another Auto Scaling: for rehearsals.", settings: &[
        setting("instance.group", "", "name of the Auto Scaling group; without it the tag `aws:autoscaling:groupName` counts"),
        setting("instance.launch_hook", "", "the hook that `salebell ready` completes; without it, or with `off`, none is completed"),
        setting("instance.termination_hook", "", "the hook that `salebell terminating` completes; without it, or with `off`, the instance is drained all the same"),
        setting("instance.ready_url", "", "address that `salebell ready` polls; without it `/readyz` at `server.listen`. Its certificate is not checked: it is the instance's own"),
        setting("instance.ready_limit_s", "300", "time after which an instance that is not ready is given up"),
        setting("instance.heartbeat_s", "15", "interval of heartbeats to a hook; well below the hook's time-out"),
        setting("instance.poll_s", "2", "interval at which the instance metadata are polled"),
        setting("instance.drain_on_rebalance", "false", "drain when EC2 says that a spot instance is at risk. With `CapacityRebalance` in the group leave it off: the group launches a replacement first, and then ends this one"),
        setting("instance.dead_man_s", "0", "the dead man's switch: seconds without a health check of the load balancer after which the instance is replaced; 0: off"),
        setting("instance.disk_full_s", "0", "seconds for which the instance's own disk must have been full before it is replaced; 0: off"),
        setting("instance.min_free_bytes", "134217728", "a disk with fewer bytes free is full"),
    ] },
    Area { name: "stats", about: "[Weekly statistics](../guides/weekly-statistics.md).", settings: &[
        setting("stats.mail_to", "", "addresses that the weekly report is mailed to; needs `email.smtp_url`"),
        setting("stats.compute_every_s", "3600", "interval at which the running week is computed, within some ten seconds; 15 in `salebell dev`"),
    ] },
    Area { name: "prices", about: "When a sale notifies: [why so](../decisions/0030-sales.md).", settings: &[
        setting("prices.rings_within_s", "604800", "an observation that was older than this when it was reported notifies nobody"),
        setting("prices.same_sale_within_s", "21600", "a sale that begins no later than this after the offer's last one ended, and not below its best price, is the same sale; 0: never"),
    ] },
    Area { name: "quarantine", about: "Observations that look like a glitch wait for an operator, or for a second observation.", settings: &[
        setting("quarantine.min_percent", "3", "a price above zero and below this share of the regular price is kept back"),
        setting("quarantine.max_jump", "10", "so is a regular price that jumps by more than this factor"),
        setting("quarantine.confirm_after_s", "600", "a second observation that agrees, at least this much later, releases it"),
    ] },
    Area { name: "telemetry", about: "Metrics for [CloudWatch](../guides/observe.md#metrics-in-cloudwatch).", settings: &[
        setting("telemetry.emf", "off", "where metrics for CloudWatch are written: `off`, `journal`, `stdout`"),
        setting("telemetry.emf_every_s", "60", "interval at which they are written"),
        setting("telemetry.environment", "", "the dimension `environment`; without it the last part of `aws.parameters`, or else `local`"),
    ] },
    Area { name: "log", about: "The log.", settings: &[
        setting("log.level", "info", "`error`, `warn`, `info`, `debug`, `trace`"),
        setting("log.to", "auto", "`journal`, `stderr`, or `auto`: the journal when systemd has connected the process to it"),
        setting("log.access", "true", "one line for each request"),
    ] },
];
