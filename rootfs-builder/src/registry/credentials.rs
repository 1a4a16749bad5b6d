//! Credentials, as `podman login` and `docker login` keep them.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

use crate::error::Error;
use crate::name::Name;

/// How Docker calls its own registry in these files.
const DOCKER_HUB: &str = "index.docker.io";

/// A file with credentials.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Credentials {
    auths: HashMap<String, Login>,
    /// The program that keeps all credentials, without the `docker-credential-` in front.
    creds_store: Option<String>,
    /// Those that keep the credentials of single registries.
    cred_helpers: HashMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Login {
    /// Base64 of `USER:PASSWORD`.
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

/// What a program that keeps credentials answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Kept {
    username: String,
    secret: String,
}

/// The credentials for `name`: those in the file `given`, or else in the first of the usual files that has some.
pub(super) fn find(name: &Name, given: Option<&Path>) -> Result<RegistryAuth, Error> {
    if let Some(path) = given {
        let text = fs::read(path).map_err(|error| bad(path, &error))?;
        return Ok(in_file(path, &text, name)?.unwrap_or(RegistryAuth::Anonymous));
    }
    for path in usual_files(|name| std::env::var_os(name).map(PathBuf::from)) {
        let text = match fs::read(&path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                continue;
            }
            text => text.map_err(|error| bad(&path, &error))?,
        };
        if let Some(auth) = in_file(&path, &text, name)? {
            return Ok(auth);
        }
    }
    Ok(RegistryAuth::Anonymous)
}

/// Where podman and Docker look, in podman's order.
fn usual_files(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    if let Some(file) = variable("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let home = variable("HOME");
    let config = variable("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
    let docker = variable("DOCKER_CONFIG").or_else(|| Some(home.as_ref()?.join(".docker")));
    let runtime = variable("XDG_RUNTIME_DIR")
        .or_else(|| Some(format!("/run/containers/{}", nix::unistd::geteuid()).into()));
    [
        runtime.map(|folder| folder.join("containers/auth.json")),
        config.map(|folder| folder.join("containers/auth.json")),
        docker.map(|folder| folder.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn in_file(path: &Path, text: &[u8], name: &Name) -> Result<Option<RegistryAuth>, Error> {
    let file: Credentials = serde_json::from_slice(text).map_err(|error| bad(path, &error))?;
    let registry = name.registry();
    let helper = file.cred_helpers.get(registry).or(file.creds_store.as_ref());
    if let Some(helper) = helper
        && let Some(kept) = ask(helper, registry).map_err(|error| bad(path, &error))?
    {
        return Ok(Some(RegistryAuth::Basic(kept.username, kept.secret)));
    }
    let login = keys(name).into_iter().find_map(|wanted| {
        file.auths.iter().find(|(key, _)| normalized(key) == wanted).map(|(_, login)| login)
    });
    let Some(login) = login else { return Ok(None) };
    if let (Some(user), Some(password)) = (&login.username, &login.password) {
        return Ok(Some(RegistryAuth::Basic(user.clone(), password.clone())));
    }
    let Some(auth) = login.auth.as_ref().filter(|auth| !auth.is_empty()) else { return Ok(None) };
    let decoded = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = decoded.as_ref().and_then(|text| text.split_once(':'));
    let (user, password) =
        pair.ok_or_else(|| bad(path, &io::Error::other("a login is not USER:PASSWORD in Base64")))?;
    Ok(Some(RegistryAuth::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned())))
}

/// Under what a name's credentials may be kept: its repository, the folders above it, its registry.
fn keys(name: &Name) -> Vec<String> {
    let registry = if name.registry() == "docker.io" { DOCKER_HUB } else { name.registry() };
    let mut keys = Vec::new();
    let mut path = name.repository();
    loop {
        keys.push(format!("{registry}/{path}"));
        match path.rsplit_once('/') {
            Some((above, _)) => path = above,
            None => break,
        }
    }
    keys.push(registry.to_owned());
    keys
}

/// Docker has addresses where podman has host names.
fn normalized(key: &str) -> String {
    let key = key.trim_start_matches("https://").trim_start_matches("http://");
    let key = key.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
    match key.strip_prefix("docker.io") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{DOCKER_HUB}{rest}"),
        _ => key.to_owned(),
    }
}

/// Asks a program that keeps credentials; `None` if it has none for the registry.
fn ask(helper: &str, registry: &str) -> io::Result<Option<Kept>> {
    let program = format!("docker-credential-{helper}");
    if helper.contains('/') {
        return Err(io::Error::other(format!("{program} is no name of a program")));
    }
    let registry = if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry };
    let mut command = Command::new(&program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run {program}: {error}")))?;
    if let Some(mut input) = child.stdin.take() {
        // It need not read what it has no use for.
        let _ = input.write_all(registry.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Ok(None);
    }
    serde_json::from_slice(&output.stdout).map(Some).map_err(io::Error::other)
}

fn bad(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::Credentials { path: path.into(), why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(text: &str, name: &str) -> Result<Option<RegistryAuth>, Error> {
        in_file(Path::new("auth.json"), text.as_bytes(), &Name::parse(name).unwrap())
    }

    fn basic(user: &str, password: &str) -> Option<RegistryAuth> {
        Some(RegistryAuth::Basic(user.into(), password.into()))
    }

    #[test]
    fn the_nearest_login_counts() {
        let file = format!(
            r#"{{"auths": {{
                "https://index.docker.io/v1/": {{"auth": "{}"}},
                "quay.io": {{"auth": "{}"}},
                "quay.io/team/app": {{"auth": "{}", "email": "x"}},
                "empty.io": {{}}
            }}}}"#,
            STANDARD.encode("hub:pass:word"),
            STANDARD.encode("all:1"),
            STANDARD.encode("app:2"),
        );
        assert_eq!(auth(&file, "alpine").unwrap(), basic("hub", "pass:word"));
        assert_eq!(auth(&file, "quay.io/other").unwrap(), basic("all", "1"));
        assert_eq!(auth(&file, "quay.io/team/app:tag").unwrap(), basic("app", "2"));
        assert_eq!(auth(&file, "quay.io/team/apple").unwrap(), basic("all", "1"));
        assert_eq!(auth(&file, "empty.io/x").unwrap(), None);
        assert_eq!(auth(&file, "unknown.io/x").unwrap(), None);
        assert_eq!(auth("{}", "alpine").unwrap(), None);
    }

    #[test]
    fn damaged_files_are_named() {
        for text in [
            "",
            "[",
            r#"{"auths": {"quay.io": {"auth": "%"}}}"#,
            r#"{"auths": {"quay.io": {"auth": "YQ=="}}}"#,
        ] {
            let error = auth(text, "quay.io/x").unwrap_err().to_string();
            assert!(error.contains("auth.json") && !error.contains("YQ=="), "{error}");
        }
    }

    #[test]
    fn one_file_or_the_usual_ones() {
        let set = |wanted: &'static [(&str, &str)]| {
            usual_files(|name| wanted.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        assert_eq!(set(&[("REGISTRY_AUTH_FILE", "/f"), ("HOME", "/h")]), [PathBuf::from("/f")]);
        assert_eq!(
            set(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r")]),
            ["/r/containers/auth.json", "/h/.config/containers/auth.json", "/h/.docker/config.json"]
                .map(PathBuf::from)
        );
    }
}
