//! `salebell reference`: the pages of docs/reference/ whose content comes from the program itself. `make reference`
//! writes them, and `tests/it/project/reference.rs` compares them.

use std::fmt::Write;
use std::io::{self, Write as _};

use anyhow::Context;
use clap::ValueEnum;

use crate::config::settings::AREAS;
use crate::error::{Error, Kind};
use crate::http::ROUTES;
use crate::http::problems::explanations::{Explanation, explain};
use crate::telemetry::log_table::{FIELDS, MESSAGES, PARTS};
use crate::telemetry::table::{CloudWatch, METRICS, Service, VALUES};

/// Print a page of the reference, as Markdown.
#[derive(Debug, clap::Args)]
pub struct ReferenceArguments {
    /// Which page.
    page: ReferencePage,
}

/// A page that the program prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReferencePage {
    /// Every setting with its default.
    Settings,
    /// Every metric with its labels, and how CloudWatch has it.
    Metrics,
    /// Every part that writes log lines, every field, and the messages to search for.
    Logs,
    /// Every path of the API with its methods.
    Routes,
    /// Every type of problem that the API answers.
    Problems,
    /// Every command with its options.
    Commands,
}

impl ReferencePage {
    pub const ALL: [ReferencePage; 6] = [
        ReferencePage::Settings,
        ReferencePage::Metrics,
        ReferencePage::Logs,
        ReferencePage::Routes,
        ReferencePage::Problems,
        ReferencePage::Commands,
    ];

    /// Name on the command line, and of the file in docs/reference/.
    pub fn name(self) -> &'static str {
        match self {
            ReferencePage::Settings => "settings",
            ReferencePage::Metrics => "metrics",
            ReferencePage::Logs => "logs",
            ReferencePage::Routes => "routes",
            ReferencePage::Problems => "problems",
            ReferencePage::Commands => "commands",
        }
    }

    /// Renders the text of the page. `program` is the command line.
    pub fn render(self, program: clap::Command) -> String {
        let (title, introduction, body) = match self {
            ReferencePage::Settings => ("Settings", SETTINGS, settings()),
            ReferencePage::Metrics => ("Metrics", METRICS_INTRODUCTION, metrics()),
            ReferencePage::Logs => ("Logs", LOGS, logs()),
            ReferencePage::Routes => ("Routes", ROUTES_INTRODUCTION, routes()),
            ReferencePage::Problems => ("Problems", PROBLEMS, problems()),
            ReferencePage::Commands => ("Commands", COMMANDS, commands(program)),
        };
        let name = self.name();
        format!(
            "# {title}\n\n<!-- Printed by `salebell reference {name}`; `make reference` writes it. -->\n\n{introduction}\n\n{body}"
        )
    }
}

/// Prints the page.
///
/// # Errors
/// Standard output cannot be written to. A reader that closes it early, such as `head`, is not an error.
pub fn run(arguments: &ReferenceArguments, program: clap::Command) -> anyhow::Result<()> {
    match io::stdout().write_all(arguments.page.render(program).as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

const SETTINGS: &str = "\
Defaults < the TOML file that `--config` or `SALEBELL_CONFIG` names < the environment. Where none is named, `config.toml`
in `$CREDENTIALS_DIRECTORY` is read, which systemd gives a service (`LoadCredential=`). `server.listen` is `[server]`
`listen` in the file and `SALEBELL_SERVER__LISTEN` in the environment; on AWS it is a
[parameter](../guides/settings-on-aws.md). Lists are words with commas in the environment. A name that ends in `_s` counts
seconds, one in `_ms` milliseconds. `salebell check-config` reports everything that is missing or invalid at once.";

const METRICS_INTRODUCTION: &str = "\
`GET /metrics` on the loopback listeners (`server.metrics_listen`, `worker.metrics_listen`) has all of them in the text
format of Prometheus; [CloudWatch](../guides/observe.md#metrics-in-cloudwatch) gets those that say so, with the dimension
`environment` and those of the table. Metrics of the fleet are the same whichever process reports them; the queues are
polled every five seconds at most. A value that is unknown is `NaN`, and left out in CloudWatch.

- `kind` of failures is a [part of the log](logs.md#parts) that writes lines of level `warn` or `error`, or `other` for
  libraries. A receiver that does not answer is not a failure of ours and counts among the attempts.
- On AWS `bus_oldest_message_age_seconds` is the age of the message that was received last: alarm on CloudWatch's
  `ApproximateAgeOfOldestMessage` of the queue, and on the depth of its dead-letter queue.
- `deliveries_oldest_due_age_seconds` covers 2,000 channels at a time, others each time.";

const LOGS: &str = "\
[Observe a deployment](../guides/observe.md#logs) says where the log goes. A line has a target, a level, a message and fields. The
journal shows fields in capitals (`REQUEST_ID` for `request.id`), CloudWatch in small letters (`request_id`), beside `time`,
`unit`, `target`, `message` and `level`, which is `warning` for `warn`. Lines of level `warn` and `error` are counted in
`salebell_failures_total`.";

const ROUTES_INTRODUCTION: &str = "\
[The API](api.md) describes them. A path that answers `GET` answers `HEAD` too.";

const PROBLEMS: &str = "\
Every refusal is a problem document (RFC 9457, `application/problem+json`); [the API](api.md#what-every-route-has-in-common)
shows one. `type` is a path of the host that sent it, where `GET /problems/…` explains that kind with an example; `GET /problems`
lists them. gRPC answers the code beside it.";

const COMMANDS: &str = "\
`salebell <command> --help` prints the same, with `--config` and `--help`, which every command takes. A command ends with 0 when it is
done, with 1 when it failed, and with 2 where arguments are invalid or `report` had some of its lines refused; `api` ends with
90 when the dead man's switch replaces its instance. [Run the processes](../guides/run.md) says which of them a deployment
needs.";

fn settings() -> String {
    let mut page = String::new();
    for (at, area) in AREAS.iter().enumerate() {
        let gap = if at > 0 { "\n" } else { "" };
        let _ = write!(page, "{gap}## {}\n\n{}\n\n", area.name, area.about);
        page.push_str("| key | default | meaning |\n|---|---|---|\n");
        for setting in area.settings {
            let default =
                if setting.default.is_empty() { String::new() } else { format!(" `{}`", setting.default) };
            let _ = writeln!(page, "| `{}` |{default} | {} |", setting.key, setting.help);
        }
    }
    page
}

/// Words as code, with commas.
fn code<W: std::fmt::Display>(words: impl IntoIterator<Item = W>) -> String {
    words.into_iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// A cell of a table; an empty one has no space in it.
fn cell(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" {text}") }
}

fn metrics() -> String {
    let mut page = String::from(
        "| metric | type, unit | labels | in CloudWatch by | meaning |\n|---|---|---|---|---|\n",
    );
    for metric in METRICS {
        let cloudwatch = match metric.cloudwatch {
            CloudWatch::No => "–".to_owned(),
            CloudWatch::Fleet => "fleet".to_owned(),
            CloudWatch::By(&[]) => "service".to_owned(),
            CloudWatch::By(labels) => format!("service, {}", code(labels)),
        };
        let labels = cell(&code(metric.labels));
        let (name, kind) = (metric.name, metric.kind.name());
        let _ = writeln!(
            page,
            "| `{name}` | {kind}, {} |{labels} | {cloudwatch} | {} |",
            metric.unit, metric.help
        );
    }
    page.push_str("\n## Values of labels\n\nLabels without a row take what a request, a task or a version brings; `kind` of failures is above.\n\n");
    page.push_str("| metric | label | values | meaning |\n|---|---|---|---|\n");
    let services = code(Service::ALL.map(Service::name));
    let _ = writeln!(
        page,
        "| in CloudWatch | `service` | {services} | `boot`: a launch that failed; `dev`: `salebell dev` |"
    );
    for one in VALUES {
        let (values, help) = (code(one.values), cell(one.help));
        let _ = writeln!(page, "| `{}` | `{}` | {values} |{help} |", one.metric, one.label);
    }
    page
}

fn logs() -> String {
    let mut page = String::from("## Parts\n\n| target | levels | what |\n|---|---|---|\n");
    for part in PARTS {
        let levels = code(part.levels.iter().map(|level| level.as_str().to_lowercase()));
        let _ = writeln!(page, "| `salebell::{}` | {levels} | {} |", part.name, part.help);
    }
    page.push_str("\n## Fields\n\n| field | of | meaning |\n|---|---|---|\n");
    for field in FIELDS {
        let _ = writeln!(page, "| `{}` | {} | {} |", field.name, code(field.parts), field.help);
    }
    page.push_str("\n## Messages\n\nThose that pages search for; their words stay.\n\n");
    page.push_str("| target | message | meaning |\n|---|---|---|\n");
    for message in MESSAGES {
        let target = message.part.map_or_else(|| "any".to_owned(), |part| format!("`salebell::{part}`"));
        let _ = writeln!(page, "| {target} | `{}` | {} |", message.text, message.help);
    }
    page
}

fn routes() -> String {
    let mut page = String::from("| path | methods |\n|---|---|\n");
    // The table of URLs may have several lines for a path, one after another.
    for of_path in ROUTES.chunk_by(|one, next| one.path == next.path) {
        let _ =
            writeln!(page, "| `{}` | {} |", of_path[0].path, code(of_path.iter().map(|route| &route.method)));
    }
    page
}

fn problems() -> String {
    let mut page =
        String::from("| status | type | title | gRPC | meaning | what to do |\n|---|---|---|---|---|---|\n");
    for kind in Kind::ALL {
        let problem = Error::new(kind, "").problem();
        let Explanation { meaning, remedy, .. } = explain(kind);
        // `Code` prints its own name: InvalidArgument.
        let (status, r#type, title, code) = (problem.status, problem.r#type, problem.title, kind.code());
        let _ = writeln!(page, "| {status} | `{}` | {title} | `{code:?}` | {meaning} | {remedy} |", r#type);
    }
    page
}

fn commands(mut program: clap::Command) -> String {
    program.build();
    let mut page = String::new();
    describe(&program, "", &mut page);
    page.trim_start().to_owned()
}

/// Appends the help of a command and of its subcommands. The current values of environment variables are left out.
fn describe(command: &clap::Command, above: &str, page: &mut String) {
    let name = format!("{above}{}", command.get_name());
    let is_below = !above.is_empty();
    let argument = |argument: clap::Arg| {
        let is_shown_once = is_below && (argument.get_id() == "config" || argument.get_id() == "help");
        argument.hide_env_values(true).hide(is_shown_once)
    };
    let help = command.clone().mut_args(argument).render_long_help();
    let help = help.to_string();
    let lines: Vec<&str> = help.trim().lines().map(str::trim_end).collect();
    let _ = write!(page, "\n## {name}\n\n```text\n");
    for (at, line) in lines.iter().enumerate() {
        // clap separates options, and the parts of an option's text, by blank lines: indentation is enough for a page.
        if !line.is_empty() || lines.get(at + 1).is_some_and(|next| !next.starts_with(' ')) {
            let _ = writeln!(page, "{line}");
        }
    }
    page.push_str("```\n");
    for below in command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help")
    {
        describe(below, &format!("{name} "), page);
    }
}
