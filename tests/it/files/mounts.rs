//! A directory of files on a file system of its own (`files.mounted`), and what happens while that is unmounted. The
//! process, its mounts and their loss are real; a mount that hangs is tested in src/files/blobs/mount.rs, and EFS in
//! `make rehearse-vm`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::{Response, StatusCode};
use serde_json::Value;
use uuid::Uuid;

use crate::files::uploads::{bytes, header};
use crate::support::instance::{self, Api};
use crate::support::{TestApp, eventually};

const MIB: usize = 1 << 20;

/// Script that mounts a file system at a place of its own, and binds it over the directory, visible only to the command
/// that follows it.
const MOUNTED: &str = "unshare -m true && how=-m || how=-rm; exec unshare $how sh -ec \
    'mount -t tmpfs salebell \"$STORE\"; mount --bind \"$STORE\" \"$SALEBELL_FILES__DIRECTORY\"; exec \"$@\"' sh \"$@\"";

/// A folder on the root's file system that contains the directory of files, whose own file system is not mounted at
/// first.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        let root = std::fs::metadata("/").unwrap().dev();
        let on_root = |folder: &&str| std::fs::metadata(folder).is_ok_and(|found| found.dev() == root);
        let parent = ["/tmp", "/var/tmp", "/var/lib", "/root"].iter().find(|folder| on_root(folder));
        let parent = parent.expect("a folder on the file system of /");
        let place = Path::new(parent).join(format!("salebell-test-{}", Uuid::now_v7().simple()));
        for folder in ["files", "store"] {
            std::fs::create_dir_all(place.join(folder)).unwrap();
        }
        Place(place)
    }

    fn files(&self) -> String {
        self.0.join("files").to_str().unwrap().to_owned()
    }

    fn store(&self) -> String {
        self.0.join("store").to_str().unwrap().to_owned()
    }

    /// Number of entries written to the root's file system.
    fn spilled(&self) -> usize {
        ["files", "store"].iter().map(|it| std::fs::read_dir(self.0.join(it)).unwrap().count()).sum()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Changes the mounts of the process, under its own root, which may differ from that of its mounts (a chroot).
fn mount_as(process: u32, command: &[&str]) {
    let id = process.to_string();
    let enter = |how: &[&str]| {
        let mut entered = std::process::Command::new("nsenter");
        entered.args(["--target", &id]).args(how).args(command).status().unwrap().success()
    };
    let by_user = ["--user", "--preserve-credentials", "--root", "--mount"];
    assert!(enter(&["--root", "--mount"]) || enter(&by_user), "{command:?}");
}

async fn assert_unavailable(answer: Response) {
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(header(&answer, "retry-after"), "5");
    let problem: Value = answer.json().await.unwrap();
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("The file storage is temporarily unavailable"), "{problem}");
}

#[tokio::test]
async fn a_store_that_is_lost_at_run_time_accepts_no_bytes_and_resumes_where_it_was() {
    let (app, place) = (TestApp::spawn().await, Place::new());
    let anna = app.user("anna", &[]).await;
    let (files, store) = (place.files(), place.store());
    let settings = [
        ("SALEBELL_FILES__DIRECTORY", files.as_str()),
        ("STORE", &store),
        ("SALEBELL_FILES__MOUNTED", "true"),
    ];
    let binary = instance::start_under(&["sh", "-c", MOUNTED, "sh"], &app, "api", &settings);
    let api = Api::of(binary, &app, &anna).await;
    let get =
        async |path: &str| app.client.get(api.url_for(path)).bearer_auth(&anna.token).send().await.unwrap();
    let whole = bytes(3 * MIB);
    let path = api.create(whole.len()).await;
    assert_eq!(api.patch(&path, 0, whole.slice(..2 * MIB)).send().await.unwrap().status(), 204);
    let kept = app.client.put(api.url_for("/v1/files/a")).bearer_auth(&anna.token).body(bytes(MIB));
    let kept: Value = kept.send().await.unwrap().json().await.unwrap();
    let kept = format!("/v1/files/{}/content", kept["id"].as_str().unwrap());
    assert_eq!(get("/readyz").await.status(), 200);

    // At once, before any periodic check.
    mount_as(api.binary.id(), &["umount", &files]);
    assert_unavailable(api.patch(&path, 2 * MIB, whole.slice(2 * MIB..)).send().await.unwrap()).await;
    assert_unavailable(get(&kept).await).await;
    let lost = Instant::now();
    eventually("it is not ready", async || get("/readyz").await.status() == 503).await;
    assert!(lost.elapsed() < Duration::from_secs(10), "{:?}", lost.elapsed());
    let problem: Value = get("/readyz").await.json().await.unwrap();
    assert_eq!(problem["errors"][0]["pointer"], "files", "{problem}");
    assert_eq!(problem["errors"][0]["detail"], "is not mounted", "{problem}");
    api.binary.logged("no file system is mounted there: uploads are refused").await;
    // Routes that need no file still work, and the load balancer does not notice.
    for path in ["/healthz", "/v1/deals", "/v1/files"] {
        assert_eq!(get(path).await.status(), 200, "{path}");
    }
    assert_unavailable(api.patch(&path, 2 * MIB, whole.slice(2 * MIB..)).send().await.unwrap()).await;
    let other = app.client.put(api.url_for("/v1/files/b")).bearer_auth(&anna.token).body(bytes(MIB));
    assert_unavailable(other.send().await.unwrap()).await;
    assert_eq!(place.spilled(), 0, "bytes on the root's file system");

    mount_as(api.binary.id(), &["mount", "--bind", &store, &files]);
    eventually("it is ready again", async || get("/readyz").await.status() == 200).await;
    assert_eq!(api.offset(&path).await, Some(2 * MIB));
    assert_eq!(api.patch(&path, 2 * MIB, whole.slice(2 * MIB..)).send().await.unwrap().status(), 204);
    let content = get(&format!("{path}/content")).await;
    assert_eq!(content.bytes().await.unwrap(), whole);
    assert_eq!(get(&kept).await.status(), 200);
    assert_eq!(place.spilled(), 0);
}

#[tokio::test]
async fn a_process_whose_store_is_not_mounted_does_not_start() {
    let (app, place) = (TestApp::spawn().await, Place::new());
    let files = place.files();
    let settings = [("SALEBELL_FILES__DIRECTORY", files.as_str()), ("SALEBELL_FILES__MOUNTED", "true")];
    for command in ["api", "worker"] {
        let mut binary = instance::start(&app, command, &settings);
        assert_eq!(binary.exit_code().await, Some(1), "{}", binary.log());
        binary.logged("files.mounted is set, and no file system is mounted there").await;
    }
    assert_eq!(place.spilled(), 0);
}
