//! Reading `config.json` and `process.json` as leniently as engines expect: what nobody knows is passed over with a line in the log.

use oci_spec::runtime::{Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::capabilities;
use crate::{Error, error::Kind};

/// Parses a configuration.
pub(super) fn spec(text: &[u8]) -> Result<Spec, Error> {
    let mut value = value(text, "config.json")?;
    if let Some(process) = value.get_mut("process") {
        complete(process);
    }
    typed(value, "config.json")
}

/// Parses the process of an `exec`.
pub(super) fn process(text: &[u8]) -> Result<Process, Error> {
    let mut value = value(text, "process.json")?;
    complete(&mut value);
    typed(value, "process.json")
}

fn value(text: &[u8], name: &str) -> Result<Value, Error> {
    serde_json::from_slice(text)
        .map_err(|error| Error::because(Kind::Process, format!("{name} is not JSON"), &error))
}

fn typed<T: DeserializeOwned>(value: Value, name: &str) -> Result<T, Error> {
    serde_ignored::deserialize(value, |path| tracing::warn!("{name}: unknown field {path} is ignored"))
        .map_err(|error| Error::because(Kind::Process, name, &error))
}

/// Fills in what a process may leave out, and takes out capabilities that this version does not know.
fn complete(process: &mut Value) {
    let Some(process) = process.as_object_mut() else { return };
    // An empty one is told from a wrong one later.
    process.entry("cwd").or_insert_with(|| json!(""));
    let user = process.entry("user").or_insert_with(|| json!({}));
    if let Some(user) = user.as_object_mut() {
        for id in ["uid", "gid"] {
            user.entry(id).or_insert_with(|| json!(0));
        }
    }
    let sets = process.get_mut("capabilities").and_then(Value::as_object_mut);
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(Value::as_array_mut) {
        set.retain(|name| {
            let known = name.as_str().is_none_or(|name| capabilities::number(name).is_some());
            if !known {
                tracing::warn!("capability {name} is unknown and is ignored");
            }
            known
        });
    }
}
