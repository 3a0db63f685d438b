//! A stand-in for EFS: an NFS server in user space (nfs-ganesha) with a TLS proxy (stunnel) in front of it, on the port
//! that EFS uses. It can hang, and it can impersonate another server.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::balancer::pem;
use super::network::HOST;

/// Its DNS name, in the form that EFS uses.
pub const NAME: &str = "fs-0123456789abcdef0.efs.eu-central-1.amazonaws.com";
const OTHER_NAME: &str = "fs-00000000000000000.efs.eu-central-1.amazonaws.com";
/// Port of NFS without TLS, for the proxy only.
const NFS: u16 = 22049;
const PORT: u16 = 2049;
/// Timeout for the start of its two servers.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Server that answers at its address.
#[derive(Clone, Copy, Debug)]
pub enum Who {
    Itself,
    /// Another file system, with a certificate of the same authority.
    OtherName,
    /// A server with the same name, but a certificate of another authority.
    OtherAuthority,
}

/// The running servers; dropping this value stops them.
pub struct Efs {
    folder: PathBuf,
    /// Authority that instances trust.
    authority: Issuer<'static, KeyPair>,
    authority_pem: String,
    nfs: Child,
    door: Option<Child>,
}

impl Efs {
    /// # Errors
    /// One of the two does not start; contains its output.
    pub async fn start(folder: &Path) -> Result<Efs, String> {
        let folder = folder.join("efs");
        for inside in ["files", "recovery"] {
            std::fs::create_dir_all(folder.join(inside)).map_err(|error| error.to_string())?;
        }
        let (authority, authority_pem) = authority();
        let place = folder.display();
        // As on EFS: numeric ids are passed on unchanged, root is not mapped, and the folder initially belongs to root.
        let settings = format!(
            "NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {NFS}; Bind_addr = 127.0.0.1; Enable_NLM = false; Enable_RQUOTA = false; }}\n\
             NFSv4 {{ Graceless = true; Minor_Versions = 1; RecoveryBackend = fs; RecoveryRoot = {place}/recovery;\n\
               Only_Numeric_Owners = true; Allow_Numeric_Owners = true; IdmapConf = {place}/idmapd.conf; }}\n\
             EXPORT {{ Export_Id = 1; Path = {place}/files; Pseudo = /; Access_Type = RW; Squash = No_Root_Squash;\n\
               SecType = sys; Transports = TCP; Protocols = 4; FSAL {{ Name = VFS; }} }}\n"
        );
        let idmapd = "[General]\nDomain = localdomain\n[Translation]\nMethod = static\n[Static]\n";
        for (name, text) in [("ganesha.conf", settings.as_str()), ("idmapd.conf", idmapd)] {
            std::fs::write(folder.join(name), text).map_err(|error| error.to_string())?;
        }
        let nfs = run(
            &folder,
            "ganesha",
            &["ganesha.nfsd", "-F", "-L", "STDERR", "-f", "ganesha.conf", "-p", "pid"],
        )?;
        let mut efs = Efs { folder, authority, authority_pem, nfs, door: None };
        efs.is_open(NFS, "127.0.0.1", "ganesha").await?;
        efs.becomes(Who::Itself).await?;
        Ok(efs)
    }

    /// Files that an instance needs below /etc to find it: another authority takes the place of Amazon's here, and its
    /// name is not in DNS.
    pub fn files(&self) -> [(String, String); 2] {
        let hosts = format!("127.0.0.1 localhost\n{HOST} {NAME}\n");
        [("salebell/efs.pem".to_owned(), self.authority_pem.clone()), ("hosts".to_owned(), hosts)]
    }

    /// Breaks every connection; from now on, `who` answers.
    ///
    /// # Errors
    /// The server does not start.
    pub async fn becomes(&mut self, who: Who) -> Result<(), String> {
        if let Some(mut door) = self.door.take() {
            let _ = door.kill().await;
        }
        let name = if matches!(who, Who::OtherName) { OTHER_NAME } else { NAME };
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let params = CertificateParams::new([name.to_owned()]).map_err(|error| error.to_string())?;
        let made = match who {
            Who::OtherAuthority => params.signed_by(&key, &authority().0),
            _ => params.signed_by(&key, &self.authority),
        };
        let made = made.map_err(|error| error.to_string())?;
        let text = pem("CERTIFICATE", made.der()) + &pem("PRIVATE KEY", &key.serialize_der());
        std::fs::write(self.folder.join("door.pem"), text).map_err(|error| error.to_string())?;
        let settings = format!(
            "foreground = yes\npid =\nsyslog = no\ndebug = info\n[nfs]\naccept = {HOST}:{PORT}\n\
             connect = 127.0.0.1:{NFS}\ncert = door.pem\nTIMEOUTclose = 0\n"
        );
        std::fs::write(self.folder.join("door.conf"), settings).map_err(|error| error.to_string())?;
        self.door = Some(run(&self.folder, &format!("{who:?}"), &["stunnel", "door.conf"])?);
        self.is_open(PORT, &HOST.to_string(), &format!("{who:?}")).await
    }

    /// Suspends or resumes it: connections stay open, but get no answer.
    pub fn hangs(&self, hangs: bool) {
        if let Some(id) = self.nfs.id() {
            let _ =
                kill(Pid::from_raw(id.cast_signed()), if hangs { Signal::SIGSTOP } else { Signal::SIGCONT });
        }
    }

    /// Files on it, each with its length and its owner.
    pub fn kept(&self) -> Vec<(u64, u32)> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.join("files")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.metadata() {
                    Ok(it) if it.is_dir() => folders.push(entry.path()),
                    Ok(it) => found.push((it.len(), it.uid())),
                    Err(_) => {}
                }
            }
        }
        found
    }

    /// Whether a client has rejected the certificate of this server.
    pub fn was_refused(&self, who: Who) -> bool {
        self.log(&format!("{who:?}")).contains("alert")
    }

    fn log(&self, name: &str) -> String {
        let bytes = std::fs::read(self.folder.join(format!("{name}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    async fn is_open(&mut self, port: u16, host: &str, log: &str) -> Result<(), String> {
        let begun = Instant::now();
        while TcpStream::connect(format!("{host}:{port}")).await.is_err() {
            if begun.elapsed() > START_LIMIT {
                return Err(format!("nobody listens on {host}:{port}: {}", self.log(log)));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

impl Drop for Efs {
    fn drop(&mut self) {
        // A suspended process does not notice that its parent is gone.
        self.hangs(false);
    }
}

fn authority() -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    // Without distinct names OpenSSL would consider its certificates self-signed.
    params.distinguished_name.push(DnType::CommonName, "an authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let made = params.self_signed(&key).expect("a certificate");
    let text = pem("CERTIFICATE", made.der());
    (Issuer::new(params, key), text)
}

fn run(folder: &Path, log: &str, command: &[&str]) -> Result<Child, String> {
    let log = File::create(folder.join(format!("{log}.log"))).map_err(|error| error.to_string())?;
    let mut started = Command::new("setpriv");
    started.args(["--pdeathsig", "KILL"]).args(command).current_dir(folder).process_group(0);
    started.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
    started.spawn().map_err(|error| format!("setpriv: {error}"))
}
