use std::{io::Read, os::fd::AsFd};

use super::*;
use crate::control::{Connection, Status};

struct Server {
    clients: Clients,
    folder: tempfile::TempDir,
}

fn server() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("s")).unwrap();
    Server { clients: Clients::new(Some(listener), peers_of(nix::unistd::geteuid())).unwrap(), folder }
}

impl Server {
    fn connect(&mut self) -> (UnixStream, ClientId) {
        let stream = UnixStream::connect(self.folder.path().join("s")).unwrap();
        self.clients.accept();
        (stream, ClientId(self.clients.next - 1))
    }
}

#[test]
fn messages_come_whole_with_their_descriptors_however_they_are_cut() {
    let mut server = server();
    let (mut stream, id) = server.connect();
    let mut bytes = control::frame(&Ask::Kill { signal: 9 }).unwrap();
    bytes.extend(control::frame(&Ask::Start).unwrap());
    let (first, rest) = bytes.split_at(7);
    stream.write_all(first).unwrap();
    assert!(server.clients.serve(id).unwrap().is_empty());
    stream.write_all(rest).unwrap();
    let asks = server.clients.serve(id).unwrap();
    assert!(matches!(asks[0].ask, Ask::Kill { signal: 9 }) && matches!(asks[1].ask, Ask::Start));

    let mut connection = Connection::from(stream);
    let stdin = std::io::stdin();
    connection.send(&Ask::Status, &[stdin.as_fd(), stdin.as_fd()]).unwrap();
    assert_eq!(server.clients.serve(id).unwrap()[0].descriptors.len(), 2);
    server.clients.answer(id, &Answer::Status(Status::Running));
    assert!(matches!(connection.receive().unwrap(), Answer::Status(Status::Running)));
    drop(connection);
    assert!(server.clients.serve(id).is_err());
}

#[test]
fn whoever_breaks_the_rules_is_gone() {
    let mut server = server();
    for bytes in [&u32::MAX.to_le_bytes()[..], b"\x02\0\0\0{]", b"\x04\0\0\0\"No\""] {
        let (mut stream, id) = server.connect();
        stream.write_all(bytes).unwrap();
        assert!(server.clients.serve(id).is_err(), "{bytes:?}");
        server.clients.remove(id);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    let (stream, id) = server.connect();
    let stdin = std::io::stdin();
    let mut connection = Connection::from(stream);
    connection.send(&Ask::Status, &[stdin.as_fd(); MAX_DESCRIPTORS + 1]).unwrap();
    assert!(server.clients.serve(id).is_err());
}

#[test]
fn whoever_never_listens_is_dropped_and_there_is_a_limit_to_connections() {
    let mut server = server();
    let (mut stream, id) = server.connect();
    let answer = Answer::File { content: "x".repeat(1 << 20), more: false };
    for _ in 0..8 {
        server.clients.answer(id, &answer);
    }
    assert!(server.clients.clients[&id].outbox.is_empty(), "what is kept for it is bounded");
    assert!(stream.read_to_end(&mut Vec::new()).is_ok(), "its connection ends");

    let streams: Vec<_> = (1..MAX_CLIENTS).map(|_| server.connect()).collect();
    assert_eq!(server.clients.clients.len(), MAX_CLIENTS);
    assert!(server.clients.listener().is_none(), "nobody more until somebody leaves");
    server.clients.remove(streams[0].1);
    assert!(server.clients.listener().is_some());
}
