//! The tutorial's commands, run as printed beside a running `salebell dev`, produce the output that the page shows.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command};

use serde_json::Value;

use crate::cli::dev::{Dev, beside};
use crate::support::eventually;
use crate::support::page;
use crate::support::scratch::Scratch;

const TUTORIAL: &str = include_str!("../../../docs/tutorial.md");

/// Fenced blocks of the tutorial below a heading.
fn blocks(heading: &str) -> Vec<(&'static str, &'static str)> {
    page::blocks(TUTORIAL, heading)
}

/// Runs a block in a shell, as a reader would type it, and returns what the terminal shows.
fn run(folder: &Path, script: &str) -> String {
    let script = format!("exec 2>&1\nset -euo pipefail\n{script}");
    let output = shell(folder, &script).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{script}: {shown}");
    shown
}

fn shell(folder: &Path, script: &str) -> Command {
    beside(folder, Path::new("bash"), &["-c", script])
}

/// A process that is killed when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Checks that every field of `shown` is in `real`.
fn assert_has_fields_of(shown: &Value, real: &Value, at: &str) {
    for (name, shown) in shown.as_object().into_iter().flatten() {
        let real = real.get(name).unwrap_or_else(|| panic!("{at} has no {name}: {real}"));
        assert_has_fields_of(shown, real, name);
    }
}

#[tokio::test]
async fn the_commands_of_the_tutorial_do_what_it_shows() {
    let scratch = Scratch::new();
    let folder = scratch.path();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::os::unix::fs::symlink(root.join("data"), folder.join("data")).unwrap();
    let dev = Dev::start(folder, &[]);
    // Other tests use ports too.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let typed =
        |script: &str| script.replace("http://127.0.0.1:8080", &dev.url).replace("9900", &port.to_string());

    let [(_, receiver), (_, ring), (_, event)] = blocks("Let it ring")[..] else { panic!("other blocks") };
    let printed = folder.join("printed");
    let mut receive = shell(folder, &format!("exec {}", typed(receiver)));
    let _receiving = Running(receive.stdout(File::create(&printed).unwrap()).spawn().unwrap());
    eventually("the receiver listens", async || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
        .await;
    let shown = run(folder, &typed(ring));
    let answers: Vec<Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 3, "each on a line of its own: {shown}");
    assert!(shown.ends_with('\n'));
    assert_eq!(answers[2]["accepted"], 1, "{shown}");
    eventually("the bell", async || std::fs::read_to_string(&printed).unwrap().ends_with('\n')).await;
    let real: Value = serde_json::from_str(&std::fs::read_to_string(&printed).unwrap()).unwrap();
    assert_eq!(real["data"]["game"]["title"], "Celeste", "{real}");
    assert_has_fields_of(&serde_json::from_str(event).unwrap(), &real, "the event");
    // Run again, it creates nothing twice.
    let again = run(folder, &typed(ring));
    for (first, again) in answers.iter().zip(again.lines()).take(2) {
        assert_eq!(serde_json::from_str::<Value>(again).unwrap()["id"], first["id"]);
    }

    let [(_, report), (_, shown)] = blocks("Report a file of your own")[..] else { panic!("other blocks") };
    assert_eq!(run(folder, &typed(report)), format!("{shown}\n"));

    let [(_, move_file), (_, shown)] = blocks("Move a large file")[..] else { panic!("other blocks") };
    assert_eq!(run(folder, &typed(move_file)), format!("{shown}\n"));
}
