//! A real registry on the loopback, and a front before it that asks for tokens, cuts connections and damages what passes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::run;

/// `docker-registry`, with its storage in a temporary folder. Ends with this value.
pub(crate) struct Registry {
    child: Child,
    /// Host and port.
    pub(crate) address: String,
    folder: tempfile::TempDir,
}

impl Registry {
    pub(crate) fn start() -> Self {
        Self::with(|_| String::new())
    }

    /// With further configuration, which may name files in the folder that `more` is given.
    pub(crate) fn with(more: impl FnOnce(&Path) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.yml");
        let storage = folder.path().join("storage");
        let more = more(folder.path());
        let (http, rest): (Vec<&str>, Vec<&str>) = more.lines().partition(|line| line.starts_with("  "));
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n{}\n{}\n",
            storage.display(),
            http.join("\n"),
            rest.join("\n").replace('>', "  "),
        );
        fs::write(&config, text).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("this test runs docker-registry, of the package of that name: {error}")
            });
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("listening on")));
        let line = line.unwrap().unwrap();
        let address = line.split("listening on ").nth(1).unwrap();
        let address = address.split(['"', ',', ' ']).next().unwrap().to_owned();
        // It must not wait for somebody to read what it says.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, folder }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Brings the image `latest` of a layout there, as `repository:latest`.
    pub(crate) fn fill(&self, layout: &Path, repository: &str, options: &[&str]) {
        let (from, to) =
            (format!("oci:{}:latest", layout.display()), format!("docker://{}/{repository}", self.address));
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "-q", "--all", "--dest-tls-verify=false"]).args(options);
        run("skopeo", command.args([from, to]));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the front does to what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mischief {
    /// Nothing.
    None,
    /// Asks for a token.
    Bearer,
    /// Ends the connection in the middle of the first long answer.
    CutOnce,
    /// Changes a byte of long answers.
    Damage,
    /// Answers to a request for a part with the whole.
    NoParts,
}

/// Stands before a registry.
pub(crate) struct Front {
    /// Host and port.
    pub(crate) address: String,
    /// The first line of each request for a blob, with its range.
    pub(crate) blobs: Arc<Mutex<Vec<String>>>,
    pub(crate) mischief: Arc<Mutex<Mischief>>,
}

/// Answers that are longer than this are long.
const LONG: usize = 50_000;

impl Front {
    pub(crate) fn new(registry: &Registry, mischief: Mischief) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let front = Self {
            address: address.clone(),
            blobs: Arc::default(),
            mischief: Arc::new(Mutex::new(mischief)),
        };
        let (blobs, mischief, behind) =
            (front.blobs.clone(), front.mischief.clone(), registry.address.clone());
        // Ends with the test program.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (blobs, mischief) = (blobs.clone(), mischief.clone());
                let (behind, address) = (behind.clone(), address.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &behind, &address, &blobs, &mischief));
            }
        });
        front
    }
}

fn serve(
    mut stream: TcpStream,
    behind: &str,
    address: &str,
    blobs: &Mutex<Vec<String>>,
    mischief: &Mutex<Mischief>,
) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
        // Whoever wants TLS is told at once that there is none.
        if head[0] == 0x16 {
            return;
        }
    }
    let head = String::from_utf8(head).unwrap();
    let lower = head.to_lowercase();
    let first = head.lines().next().unwrap().to_owned();
    let reply = |stream: &mut TcpStream, head: &str, body: &str| {
        let _ = write!(
            stream,
            "HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
    };
    let how = *mischief.lock().unwrap();
    if how == Mischief::Bearer {
        if first.starts_with("GET /token?") {
            assert!(first.contains("scope=repository") && first.contains("service=front"), "{first}");
            return reply(&mut stream, "200 OK\r\nContent-Type: application/json", r#"{"token":"good"}"#);
        }
        if !lower.contains("authorization: bearer good") {
            let challenge = format!("Bearer realm=\"http://{address}/token\",service=\"front\"");
            return reply(&mut stream, &format!("401 Unauthorized\r\nWWW-Authenticate: {challenge}"), "");
        }
    }
    if first.contains("/blobs/") {
        let range = lower.lines().find(|line| line.starts_with("range:")).unwrap_or_default().to_owned();
        blobs.lock().unwrap().push(format!("{first} {range}").trim_end().to_owned());
    }
    let mut upstream = TcpStream::connect(behind).unwrap();
    let kept = |line: &&str| {
        let line = line.to_lowercase();
        let dropped = ["connection:", "authorization:"].iter().any(|name| line.starts_with(name));
        let is_range = how == Mischief::NoParts && line.starts_with("range:");
        !dropped && !is_range
    };
    let kept: Vec<&str> = head.trim_end().lines().filter(kept).collect();
    write!(upstream, "{}\r\nConnection: close\r\n\r\n", kept.join("\r\n")).unwrap();
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer).unwrap();
    if answer.len() > LONG {
        match how {
            Mischief::CutOnce => {
                *mischief.lock().unwrap() = Mischief::None;
                answer.truncate(LONG / 2);
            }
            Mischief::Damage => answer[LONG / 2] ^= 1,
            _ => {}
        }
    }
    let _ = stream.write_all(&answer);
    let _ = stream.shutdown(Shutdown::Write);
}
