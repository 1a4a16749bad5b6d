//! What commands ask over the control socket.

use std::ffi::CString;

use mote_protocol::{ReadFile, Request, Resize, SignalGroup, WaitFile, WindowSize, WriteFile};

use super::{
    clients::{ClientId, Received},
    events::Heard,
    processes::{INIT, Stage},
    streams::Ends,
    supervisor::{Pending, Supervisor},
};
use crate::{
    Error,
    control::{Answer, Ask, Exec, Status},
    error::Kind,
    program::Program,
};

/// What `kill` means.
const SIGKILL: u8 = 9;
/// How much may wait for the guest to take it before nothing more is taken from commands, in bytes.
const MAX_BACKLOG: usize = 8 << 20;

/// A file of the guest's that somebody waits for.
pub(super) struct Watch {
    request: u32,
    path: String,
    known: String,
    clients: Vec<ClientId>,
}

impl Supervisor<'_> {
    /// Reads what a connection says, and does it.
    pub(super) fn serve(&mut self, client: ClientId) -> Result<(), Error> {
        match self.clients.serve(client) {
            Ok(messages) => {
                for message in messages {
                    if let Err(error) = self.carry_out(client, message) {
                        self.clients.answer(client, &Answer::Failed(*error.0));
                    }
                }
                Ok(())
            }
            Err(_) => self.lost(client),
        }
    }

    /// A connection is gone: whatever was started over it goes, too.
    fn lost(&mut self, client: ClientId) -> Result<(), Error> {
        self.clients.remove(client);
        self.watches.iter_mut().for_each(|watch| watch.clients.retain(|other| *other != client));
        if let Some((id, process)) = self.processes.of_client(client) {
            process.client = None;
            if process.stage == Stage::Running {
                self.kill(id)?;
            }
        }
        Ok(())
    }

    fn status(&self) -> Status {
        match self.processes.init().map(|init| init.stage) {
            None | Some(Stage::Starting) => Status::Creating,
            Some(Stage::Created | Stage::Going) => Status::Created,
            Some(Stage::Running) if self.frozen => Status::Paused,
            Some(Stage::Running) => Status::Running,
            Some(Stage::Ended(_)) => Status::Stopped,
        }
    }

    fn carry_out(&mut self, client: ClientId, message: Received) -> Result<(), Error> {
        if self.agent.backlog() > MAX_BACKLOG {
            return Err(Error::new(Kind::Guest, "the guest does not take any more requests"));
        }
        match message.ask {
            Ask::Status => {
                let status = self.status();
                self.clients.answer(client, &Answer::Status(status));
                Ok(())
            }
            Ask::Start => self.open_gate(client),
            Ask::Kill { signal } => self.signal_init(signal, Some(client)),
            Ask::Exec(exec) => self.exec(client, exec, message.descriptors),
            Ask::Signal { signal } => {
                let (process, _) = self.processes.of_client(client).ok_or_else(not_yours)?;
                self.agent.send(&[Request::Signal(mote_protocol::Signal { process, signal })]).map(drop)
            }
            Ask::Resize { rows, columns } => {
                let (process, _) = self
                    .processes
                    .of_client(client)
                    .filter(|(_, process)| process.has_terminal)
                    .ok_or_else(not_yours)?;
                let size = WindowSize { rows, columns };
                self.agent.send(&[Request::Resize(Resize { process, size })]).map(drop)
            }
            Ask::KillGroup { processes, signal } => {
                let processes = path(processes)?;
                let group = SignalGroup { processes: processes.as_c_str().into(), signal };
                self.forward(client, &Request::SignalGroup(group))
            }
            Ask::ReadFile { path: file, offset } => {
                let file = path(file)?;
                self.forward(client, &Request::ReadFile(ReadFile { path: file.as_c_str().into(), offset }))
            }
            Ask::WriteFile { path: file, content } => {
                let file = path(file)?;
                let write = WriteFile { path: file.as_c_str().into(), content: content.as_bytes() };
                self.forward(client, &Request::WriteFile(write))
            }
            Ask::WaitFile { path, known } => self.watch(client, path, known),
            Ask::Frozen { frozen } => {
                self.frozen = frozen;
                self.clients.answer(client, &Answer::Done);
                Ok(())
            }
        }
    }

    /// Has the guest do something whose answer goes to the client as it is.
    fn forward(&mut self, client: ClientId, request: &Request<'_>) -> Result<(), Error> {
        let id = self.agent.send(std::slice::from_ref(request))?;
        self.pending.insert(id, Pending::Other(client));
        Ok(())
    }

    /// Has the guest watch a file. Whoever waits for the same waits together: the guest knows of few watches at a time, and does
    /// not forget one whose client is gone.
    fn watch(&mut self, client: ClientId, file: String, known: String) -> Result<(), Error> {
        let same = |watch: &&mut Watch| watch.path == file && watch.known == known;
        if let Some(watch) = self.watches.iter_mut().find(same) {
            watch.clients.push(client);
            return Ok(());
        }
        let path = path(file.clone())?;
        let wait = WaitFile { path: path.as_c_str().into(), known: known.as_bytes() };
        let request = self.agent.send(&[Request::WaitFile(wait)])?;
        self.pending.insert(request, Pending::Watch);
        self.watches.push(Watch { request, path: file, known, clients: vec![client] });
        Ok(())
    }

    /// A watch has come to its end.
    pub(super) fn watched(&mut self, request: u32, event: &Heard) {
        let Some(at) = self.watches.iter().position(|watch| watch.request == request) else { return };
        for client in self.watches.swap_remove(at).clients {
            let answer = match event {
                Heard::File { content, more } => Answer::File { content: content.clone(), more: *more },
                Heard::Failed(refusal) => Answer::Failed(*refusal.error().0),
                _ => return,
            };
            self.clients.answer(client, &answer);
        }
    }

    fn open_gate(&mut self, client: ClientId) -> Result<(), Error> {
        let why = match self.status() {
            Status::Created => {
                let Some(init) = self.processes.get_mut(INIT).filter(|init| init.stage == Stage::Created)
                else {
                    return Err(Error::new(Kind::Container, "cannot start an already running container"));
                };
                init.stage = Stage::Going;
                let id = self.agent.send(&[Request::Start(INIT)])?;
                self.pending.insert(id, Pending::Start(client));
                return Ok(());
            }
            Status::Running | Status::Paused => "cannot start an already running container",
            Status::Stopped => "cannot start a container that has stopped",
            Status::Creating => "cannot start a container that is not created yet",
        };
        Err(Error::new(Kind::Container, why))
    }

    /// Sends a signal to the first process, from a command or from whoever took the sandbox process for it.
    pub(super) fn signal_init(&mut self, signal: u8, client: Option<ClientId>) -> Result<(), Error> {
        let Some(init) = self.processes.get_mut(INIT) else { return Err(not_running()) };
        match init.stage {
            Stage::Starting | Stage::Ended(_) => return Err(not_running()),
            // Only asks whether there is somebody.
            _ if signal == 0 => {
                if let Some(client) = client {
                    self.clients.answer(client, &Answer::Done);
                }
                return Ok(());
            }
            Stage::Created | Stage::Going | Stage::Running => {}
        }
        if signal == SIGKILL && self.pending.values().any(|pending| matches!(pending, Pending::Kill(_))) {
            // The guest has not even said that it heard the last one: it is not asked again.
            init.stage = Stage::Ended(128 + SIGKILL);
            self.vm.stop();
            if let Some(client) = client {
                self.clients.answer(client, &Answer::Done);
            }
            return Ok(());
        }
        let request = mote_protocol::Signal { process: INIT, signal };
        let id = self.agent.send(&[Request::Signal(request)])?;
        let pending = match client {
            _ if signal == SIGKILL => Some(Pending::Kill(client)),
            Some(client) => Some(Pending::Other(client)),
            None => None,
        };
        pending.map(|pending| self.pending.insert(id, pending));
        Ok(())
    }

    fn exec(
        &mut self,
        client: ClientId,
        exec: Exec,
        descriptors: Vec<std::os::fd::OwnedFd>,
    ) -> Result<(), Error> {
        let why = match self.status() {
            Status::Paused if !exec.ignore_paused => {
                Some("cannot exec in a paused container (use --ignore-paused to override)")
            }
            Status::Stopped => Some("cannot exec in a stopped container"),
            Status::Creating => Some("cannot exec in a container that is not created yet"),
            Status::Created | Status::Running | Status::Paused => None,
        };
        if let Some(why) = why {
            return Err(Error::new(Kind::Container, why));
        }
        if self.processes.of_client(client).is_some() {
            return Err(Error::new(Kind::Host, "one process over each connection"));
        }
        let mut descriptors = descriptors.into_iter();
        let (stdin, stdout) = (descriptors.next(), descriptors.next());
        let ends = Ends { stdin, stdout, stderr: descriptors.next(), terminal: exec.window() };
        let id = self.processes.free_id();
        self.start(id, Program::from_bytes(exec.program), ends.ready_as_they_are(), Some(client))
    }
}

fn path(path: String) -> Result<CString, Error> {
    CString::new(path).map_err(|_| Error::new(Kind::Host, "a path with a NUL byte"))
}

fn not_running() -> Error {
    Error::new(Kind::Container, "container not running")
}

fn not_yours() -> Error {
    Error::new(Kind::Host, "nothing was started over this connection")
}
