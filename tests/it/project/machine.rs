//! How `make run`, `make test`, a bake and the build server use the machine they run on, and what they report about it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use nix::unistd::geteuid;

use crate::support::scratch::Scratch;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Command of a shell in the repository, optionally started by another program.
fn shell(wrapper: &[&str], script: &str, arguments: &[&str]) -> Command {
    let words = [wrapper, &["bash", "-euc", script, "bash"], arguments].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(ROOT);
    command
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Puts a program of this name into a folder for PATH.
fn program(folder: &Path, name: &str, script: &str) {
    std::fs::create_dir_all(folder).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn mounts_in_an_image_keep_their_times_and_end_no_bake() {
    let scratch = Scratch::new();
    // As a bake finds it: the kernel's folders are read-only, and as old as the boot.
    let script = r#"
        cd "$1"
        mkdir image
        mount -t tmpfs tmpfs image
        mkdir -p image/sys/below image/mnt
        touch --date=@1000000000 image/old
        touch image/young
        ln -s nowhere image/link
        mount -t tmpfs tmpfs image/sys
        touch image/sys/mounted
        mount -o remount,bind,ro image/sys
        SOURCE_DATE_EPOCH=1500000000 "$OLDPWD/packer/scripts/set-times.sh" image
        stat --format '%n %Y' image/old image/young image/link image
        for mounted in image/sys image/sys/mounted; do
            [ "$(stat --format %Y "$mounted")" -gt 1500000000 ]
        done
        umount image/sys
        stat --format '%n %Y' image/sys image/sys/below
    "#;
    let root = if geteuid().is_root() { "--mount" } else { "--map-root-user" };
    let found = run(&mut shell(&["unshare", "--mount", root], script, &[scratch.path().to_str().unwrap()]));
    let expected = "image/old 1000000000\nimage/young 1500000000\nimage/link 1500000000\nimage 1500000000\n\
                    image/sys 1500000000\nimage/sys/below 1500000000\n";
    assert_eq!(found, expected);
}

#[test]
fn the_build_server_tests_the_commit_as_one_that_is_older_than_the_boot() {
    let scratch = Scratch::new();
    let checkout = scratch.path().join("a checkout");
    let script = r#"
        mkdir -p "$1/.ci" "$1/scripts/lib"
        cp .ci/run "$1/.ci/"
        cp scripts/lib/time-before-boot.sh "$1/scripts/lib/"
        cd "$1"
        printf 'test:\n\t@cat Makefile.told; git log --format="%%s by %%an at %%ct"; echo "$$CARGO_TARGET_DIR"; exit 7\n' >Makefile
        echo 'committed' >Makefile.told
        git init --quiet
        git add .
        git -c user.name=Anna -c user.email=anna@example.com commit --quiet --message 'first'
        git -c user.name=Anna -c user.email=anna@example.com commit --quiet --message 'second' --allow-empty
        echo 'changed' >Makefile.told
    "#;
    run(&mut shell(&[], script, &[checkout.to_str().unwrap()]));
    let git = |arguments: &[&str]| {
        run(Command::new("git").arg("-C").arg(&checkout).args(arguments).env("GIT_OPTIONAL_LOCKS", "0"))
    };
    let before = git(&["rev-parse", "HEAD"]) + &git(&["status", "--porcelain"]);

    let cache = scratch.path().join("cache");
    let mut server = Command::new(checkout.join(".ci/run"));
    server.env("XDG_CACHE_HOME", &cache).env("CARGO_TARGET_DIR", "/somewhere/else").current_dir("/");
    let output = server.output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2), "make's own code for a recipe that failed: {said}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let [committed, commit, target] = printed.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
    assert_eq!((committed, target), ("committed", "/somewhere/else"), "{said}");
    let made_at: u64 = commit.strip_prefix("second by Anna at ").expect("one commit").parse().unwrap();
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let booted_at: u64 = stat.lines().find_map(|line| line.strip_prefix("btime ")).unwrap().parse().unwrap();
    assert!(made_at < booted_at, "{made_at} and {booted_at}");
    assert!(said.contains("what is not committed is not tested"), "{said}");
    // Nothing was written there, and cargo sees the files of another run unchanged.
    assert_eq!(git(&["rev-parse", "HEAD"]) + &git(&["status", "--porcelain"]), before);
    let kept = cache.join("salebell/ci/Makefile.told");
    let time = std::fs::metadata(&kept).unwrap().modified().unwrap();
    assert_eq!(server.output().unwrap().status.code(), Some(2));
    assert_eq!(std::fs::metadata(&kept).unwrap().modified().unwrap(), time);
}

#[test]
fn a_bake_by_sudo_finds_the_programs_of_administrators() {
    let scratch = Scratch::new();
    let stubs = scratch.path().join("bin");
    program(&stubs, "sudo", r#"printf '%s\n' "$@""#);
    program(&stubs, "id", "echo 1000");
    // As a user's PATH on Debian.
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", stubs.display());
    let bake = shell(&[], "packer/local/bake.sh work amd64 bases", &[]).env("PATH", &path).output().unwrap();
    let printed = String::from_utf8(bake.stdout).unwrap();
    let given = printed.lines().find_map(|line| line.strip_prefix("PATH=")).expect("sudo gets a PATH");
    let folders: Vec<&str> = given.split(':').collect();
    for folder in [stubs.to_str().unwrap(), "/usr/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"] {
        assert!(folders.contains(&folder), "{folder} is missing in {given}");
    }
    let found =
        shell(&[], ". scripts/lib/system-programs.sh; . scripts/lib/system-programs.sh; echo $PATH", &[])
            .env("PATH", "/usr/bin:/bin")
            .output()
            .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin\n");
}

#[test]
fn rust_is_searched_for_before_anything_is_installed() {
    let scratch = Scratch::new();
    let (stubs, old) = (scratch.path().join("bin"), scratch.path().join("old"));
    for name in ["apt-get", "sudo"] {
        program(&stubs, name, &format!("touch '{}/installed'; exit 1", scratch.path().display()));
    }
    // The Rust of apt.
    program(&old, "cargo", "echo 'cargo 1.85.0 (d73d2caf9 2024-12-31)'");
    for (script, arguments) in [
        ("run-dev.sh", &[][..]),
        ("run-tests.sh", &[]),
        ("bake-image.sh", &["local"]),
        ("rehearse.sh", &[]),
        ("rehearse-vm.sh", &[]),
    ] {
        for (more, said) in [("", "Rust is missing"), (":old", "this is 1.85.0")] {
            let path =
                format!("{}:/usr/bin:/bin{}", stubs.display(), more.replace("old", old.to_str().unwrap()));
            let mut command = Command::new(Path::new(ROOT).join("scripts").join(script));
            command.args(arguments).env_clear().env("PATH", path).env("HOME", scratch.path());
            let output = command.output().unwrap();
            assert!(!output.status.success() && text(&output).contains(said), "{script}: {}", text(&output));
        }
    }
    assert!(!scratch.path().join("installed").exists());
}

/// Runs the description of the machine with which `make test` starts, and returns its output.
fn describe(wrapper: &[&str], path: &str, more: &str) -> Output {
    let script = format!("{more}; . scripts/lib/describe-machine.sh; echo \"left out: $left_out\"");
    shell(wrapper, &script, &[]).env("PATH", path).env_remove("SALEBELL_TEST_ALL").output().unwrap()
}

#[test]
fn skipped_checks_are_reported_at_the_start() {
    let scratch = Scratch::new();
    let usual = "/usr/bin:/bin:/usr/sbin:/sbin";
    // Neither root nor sudo.
    let (bare, refusing) = (scratch.path().join("bare"), scratch.path().join("refusing"));
    program(&bare, "id", "echo 1000");
    program(&refusing, "id", "echo 1000");
    program(&refusing, "sudo", "exit 1");
    let without_sudo = "command() { case $* in *sudo) return 1 ;; *) builtin command \"$@\" ;; esac; }";
    for (folder, more, reason) in [
        (&bare, without_sudo, "you are not root, and there is no sudo"),
        (&refusing, "true", "you are not root, and sudo does not let you become it"),
    ] {
        let output = describe(&[], &format!("{}:{usual}", folder.display()), more);
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        for part in ["this machine: a user", reason, "the bake of the machine image", "appliance::"] {
            assert!(said.contains(part), "{part} is missing in {said}");
        }
        assert!(said.ends_with(&format!("left out: {reason}\n")), "{said}");
    }
    if !geteuid().is_root() {
        return; // without root, no other machine can be simulated
    }
    // A container without privileges, like most.
    let container = ["setpriv", "--bounding-set", "-sys_admin"];
    let said = text(&describe(&container, usual, "true"));
    assert!(said.contains("this machine: root"), "{said}");
    for lack in ["no mount namespaces", "no network namespaces"] {
        assert!(said.contains(lack), "{lack} is missing in {said}");
    }
    // A build server skips nothing.
    let output = describe(&container, usual, "export SALEBELL_TEST_ALL=yes");
    assert!(!output.status.success() && text(&output).contains("everything is to be tested here"));
    // A chroot.
    let inside = "mount -t tmpfs tmpfs /mnt; mkdir /mnt/upper /mnt/work /mnt/root; \
                  mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root; \
                  mkdir -p \"/mnt/root$PWD\"; mount --bind \"$PWD\" \"/mnt/root$PWD\"; \
                  for folder in /proc /sys /dev; do mount --rbind $folder /mnt/root$folder; done; \
                  exec chroot /mnt/root bash -c 'cd \"$0\" && exec \"$@\"' \"$PWD\" \"$@\"";
    let chroot = ["unshare", "--mount", "bash", "-euc", inside, "bash"];
    let said = text(&describe(&chroot, usual, "true"));
    assert!(said.contains("this machine: root, in a chroot"), "{said}");
    assert!(said.contains("root has no user namespaces here"), "{said}");
}
