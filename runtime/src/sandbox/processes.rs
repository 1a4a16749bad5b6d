//! The guest's processes that the host has asked for: the container's first one, and those that commands have added.

use std::collections::BTreeMap;

use mote_protocol::ProcessId;

use super::{clients::ClientId, streams::Open};
use crate::program::Program;

/// The first process: the command of `mote run`, or a container's.
pub(super) const INIT: ProcessId = ProcessId(1);

/// How far a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The guest was asked for it.
    Starting,
    /// It waits at its gate.
    Created,
    /// It was let through the gate.
    Going,
    Running,
    /// It has ended with this status; output may still be on its way.
    Ended(u8),
}

pub(super) struct Process {
    pub(super) stage: Stage,
    pub(super) program: Program,
    pub(super) streams: Open,
    pub(super) has_terminal: bool,
    /// The connection that has asked for it, and wants to know how it ends.
    pub(super) client: Option<ClientId>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Processes {
    table: BTreeMap<ProcessId, Process>,
    last: u32,
}

impl Processes {
    /// A name that no process has.
    pub(super) fn free_id(&mut self) -> ProcessId {
        loop {
            self.last = self.last.wrapping_add(1).max(INIT.0 + 1);
            if !self.table.contains_key(&ProcessId(self.last)) {
                return ProcessId(self.last);
            }
        }
    }

    pub(super) fn insert(&mut self, id: ProcessId, process: Process) {
        self.table.insert(id, process);
    }

    pub(super) fn get_mut(&mut self, id: ProcessId) -> Option<&mut Process> {
        self.table.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: ProcessId) -> Option<Process> {
        self.table.remove(&id)
    }

    pub(super) fn init(&self) -> Option<&Process> {
        self.table.get(&INIT)
    }

    /// The process that a connection has asked for.
    pub(super) fn of_client(&mut self, client: ClientId) -> Option<(ProcessId, &mut Process)> {
        let mut all = self.table.iter_mut();
        all.find(|(_, process)| process.client == Some(client)).map(|(id, process)| (*id, process))
    }

    /// Takes the processes out that have ended and whose output was passed on, but for the first one, which stays.
    pub(super) fn take_finished(&mut self) -> Vec<(ClientId, u8)> {
        let mut finished = Vec::new();
        self.table.retain(|id, process| match process.stage {
            Stage::Ended(status) if *id != INIT && process.streams.is_over() => {
                finished.extend(process.client.map(|client| (client, status)));
                false
            }
            _ => true,
        });
        finished
    }

    /// The connections that still wait for the end of a process.
    pub(super) fn waiting_clients(&self) -> impl Iterator<Item = ClientId> {
        self.table.values().filter_map(|process| process.client)
    }
}
