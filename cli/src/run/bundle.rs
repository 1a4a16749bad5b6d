//! `mote run --bundle FOLDER`: the container of an OCI bundle, in the foreground.

use std::{io::IsTerminal, path::Path};

use mote_runtime::{
    Error, Kind, Process, Rootfs, Spec, Streams,
    oci::{Bundle, OCI_VERSION, compile},
};

use crate::args::RunOptions;

/// The container of a bundle, with its terminal as ours.
pub(super) fn spec(folder: &Path, options: RunOptions) -> Result<Spec, Error> {
    let bundle = Bundle::load(folder)?;
    let size = bundle.size();
    let terminal = bundle.spec().process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
    if terminal && !std::io::stdin().is_terminal() {
        return Err(Error::new(Kind::Process, "process.terminal: standard input is not a terminal"));
    }
    Ok(Spec {
        hypervisor: options.hypervisor.into(),
        vcpus: size.vcpus,
        memory: size.memory,
        kernel: mote_runtime::kernel(options.kernel.as_deref())?,
        initrd: options.initrd,
        kernel_options: options.kernel_options,
        rootfs: Rootfs::Share(0),
        read_only: false,
        shares: bundle.shares()?,
        folders: Vec::new(),
        writable: Vec::new(),
        volumes: Vec::new(),
        console: options.console,
        process: Process {
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: b"/".to_vec(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            hostname: String::new(),
            streams: if terminal { Streams::Terminal } else { Streams::Pipes },
            stop_signal: None,
        },
        program: Some(compile::container(&bundle, &state(&bundle))?.into_bytes()),
    })
}

/// The container's state, for hooks: without an id, because nobody else ever asks for it.
fn state(bundle: &Bundle) -> Vec<u8> {
    serde_json::json!({
        "ociVersion": OCI_VERSION,
        "id": "",
        "status": "created",
        "pid": std::process::id(),
        "bundle": bundle.path(),
    })
    .to_string()
    .into_bytes()
}
