//! Outside readers of the OpenAPI document: a validator, and the generators of clients of docs/clients.md, whose commands
//! and programs run as the page has them and print what it shows.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use salebell::http::document;
use salebell::http::openapi::Version;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::cli::dev::{Dev, beside};
use crate::support::database::TestDatabase;
use crate::support::page::blocks;
use crate::support::scratch::Scratch;
use crate::support::shell::text;

const PAGE: &str = include_str!("../../../docs/clients.md");
const PYTHON_PACKAGES: &str = include_str!("../../clients/requirements.txt");
const NODE_PACKAGES: &str = include_str!("../../clients/package.json");

/// Timeout of a command of the page.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; `make test` sets it"))
}

/// A reader of the page: a folder with a running `salebell dev`.
struct Reader {
    scratch: Scratch,
    dev: Dev,
    _database: TestDatabase,
}

impl Reader {
    async fn new() -> Reader {
        let (scratch, database) = (Scratch::new(), TestDatabase::create_bare().await);
        let dev = Dev::start(scratch.path(), &["--database-url", &database.url]);
        Reader { scratch, dev, _database: database }
    }

    fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Runs lines in a shell with the settings that the page begins with.
    async fn run(&self, lines: &str) -> Output {
        let [(_, settings), ..] = blocks(PAGE, "")[..] else { panic!("it has no settings") };
        let settings = settings.replace("http://127.0.0.1:8080", &self.dev.url);
        let script = format!("set -euo pipefail\n{settings}\n{lines}");
        // The programs that `pip install` and `npm install` of the page would have installed.
        let python = setting("SALEBELL_TEST_PYTHON");
        let programs = Path::new(&python).parent().unwrap().display();
        let path = format!("{programs}:{}", setting("PATH"));
        let mut command = beside(self.folder(), Path::new("bash"), &["-c", &script]);
        command.env("PATH", path);
        let running = Command::from(command).kill_on_drop(true).output();
        tokio::time::timeout(COMMAND_TIMEOUT, running).await.expect(lines).unwrap()
    }

    /// Runs lines to their success; returns what they print.
    async fn print(&self, lines: &str) -> String {
        let output = self.run(lines).await;
        let printed = text(&output.stdout);
        assert!(output.status.success(), "{lines}: {printed}{}", text(&output.stderr));
        printed
    }
}

/// The packages that a block of the page installs with `install`, and its other lines.
fn installed<'p>(block: &'p str, install: &str) -> (Vec<&'p str>, &'p str) {
    let (first, others) = block.split_once('\n').unwrap();
    let packages = first.strip_prefix(install).unwrap_or_else(|| panic!("{first} does not {install}"));
    (packages.split_whitespace().collect(), others)
}

#[tokio::test]
async fn the_python_client_of_the_page_does_what_it_shows() {
    let [(_, generate), (_, program), (_, shown)] = blocks(PAGE, "Python")[..] else {
        panic!("other blocks")
    };
    let (packages, generate) = installed(generate, "pip install");
    for package in packages {
        assert!(PYTHON_PACKAGES.lines().any(|line| line == package), "the tests have another {package}");
    }
    let reader = Reader::new().await;
    let output = reader.run(generate).await;
    let printed = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{printed}");
    // The generator leaves out what it does not understand, and goes on.
    assert!(!printed.contains("Unable to process schema"), "{printed}");
    let left_out: Vec<&str> = printed.lines().filter(|line| line.contains("will not be generated")).collect();
    assert!(left_out.len() == 1 && left_out[0].contains("POST /v1/files/{id} "), "{left_out:#?}");
    std::fs::write(reader.folder().join("watch.py"), program).unwrap();
    assert_eq!(reader.print("python watch.py").await, format!("{shown}\n"));
}

#[tokio::test]
async fn the_typescript_client_of_the_page_does_what_it_shows() {
    let [(_, generate), (_, program), (_, shown)] = blocks(PAGE, "TypeScript")[..] else {
        panic!("other blocks")
    };
    let (packages, generate) = installed(generate, "npm install");
    let pinned: Value = serde_json::from_str(NODE_PACKAGES).unwrap();
    for package in packages {
        let (name, version) = package.rsplit_once('@').unwrap();
        assert_eq!(pinned["dependencies"][name], version, "{name}");
    }
    let mut runs = PAGE.lines().filter_map(|line| line.strip_prefix('`')?.strip_suffix("` prints:"));
    let run = runs.find(|run| run.starts_with("npx tsc --strict ")).expect("the command that compiles");
    let compile = run.split(" && ").next().unwrap();

    let reader = Reader::new().await;
    let modules = setting("SALEBELL_TEST_NODE_PATH");
    std::os::unix::fs::symlink(modules, reader.folder().join("node_modules")).unwrap();
    reader.print(generate).await;
    let write = |program: &str| std::fs::write(reader.folder().join("watch.mts"), program).unwrap();

    // The types are those of the document.
    for (right, other) in [
        ("atMost(\"12.00\")", "({ price_at_most: { amount: 12, currency: \"EUR\" } })"),
        ("\"EUR\"", "\"EURO\""),
        ("/v1/notices", "/v1/notice"),
        ("game.title", "game.name"),
        ("error?.detail", "error?.details"),
    ] {
        assert!(program.contains(right), "{right}");
        write(&program.replacen(right, other, 1));
        let output = reader.run(&format!("{compile} --noEmit")).await;
        let printed = text(&output.stdout);
        assert!(!output.status.success() && printed.contains("error TS"), "{other}: {printed}");
    }
    write(program);
    assert_eq!(reader.print(run).await, format!("{shown}\n"));
}

#[tokio::test]
async fn an_outside_validator_finds_the_document_valid_in_both_versions() {
    let scratch = Scratch::new();
    let validate = async |name: &str, document: &Value| {
        let file = scratch.path().join(name);
        std::fs::write(&file, document.to_string()).unwrap();
        let mut command = Command::new(setting("SALEBELL_TEST_PYTHON"));
        command.args(["-m", "openapi_spec_validator"]).arg(&file);
        let output = command.output().await.unwrap();
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    };
    for version in [Version::V3_1, Version::V3_2] {
        let mut document = document(version).unwrap();
        let (valid, printed) = validate("valid.json", &document).await;
        assert!(valid, "{}: {printed}", document["openapi"]);
        document["paths"]["/v1/games"]["get"]["parameters"] = json!([{"name": "q"}]);
        let (valid, printed) = validate("broken.json", &document).await;
        assert!(!valid, "{}: {printed}", document["openapi"]);
    }
}
