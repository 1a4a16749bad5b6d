//! A frontend that speaks the protocol byte by byte, and a device that answers.

mod frontend;

use std::sync::mpsc::{self, Receiver, Sender};

use self::frontend::Frontend;
use super::*;
use crate::virtio::{Chain, DeviceError, QueueError, VirtQueue};

const CALLS: &str = "the device is called";
const PROTOCOL: u64 = backend::PROTOCOL_FEATURES;

#[derive(Debug, PartialEq)]
enum Call {
    Process(Wake, usize),
    Features(u64),
    Reset,
    Dropped,
}

/// Answers "ping" with "pong" on queue 0, and fails on anything else.
struct Pong {
    device_type: DeviceType,
    sizes: &'static [u16],
    event: UnixStream,
    calls: Sender<Call>,
}

impl Pong {
    /// The device, what it is called with, and the other end of its own descriptor.
    fn new(device_type: DeviceType, sizes: &'static [u16]) -> (Self, Receiver<Call>, UnixStream) {
        let (event, other) = UnixStream::pair().unwrap();
        let (calls, receiver) = mpsc::channel();
        (Self { device_type, sizes, event, calls }, receiver, other)
    }

    fn tell(&self, call: Call) {
        // Nobody listens at the end of some tests.
        let _ = self.calls.send(call);
    }
}

impl Device for Pong {
    fn name(&self) -> &'static str {
        "pong"
    }

    fn device_type(&self) -> DeviceType {
        self.device_type
    }

    fn features(&self) -> u64 {
        0b101
    }

    fn set_features(&mut self, accepted: u64) {
        self.tell(Call::Features(accepted));
    }

    fn queue_sizes(&self) -> &'static [u16] {
        self.sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        crate::virtio::read_config_bytes(b"configuration", offset, data);
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.event.as_fd())
    }

    fn process(&mut self, wake: Wake, queues: &mut [VirtQueue<'_>]) -> Result<(), DeviceError> {
        if wake == Wake::Events {
            let mut byte = [0];
            io::Read::read_exact(&mut &self.event, &mut byte).unwrap();
        }
        let failed = |source| DeviceError::Queue { index: 0, source };
        self.tell(Call::Process(wake, queues.len()));
        let mut chain = Chain::default();
        let queue = &mut queues[0];
        while queue.pop(&mut chain).map_err(failed)? {
            let mut question = [0; 4];
            chain.readable.read(queue.memory(), 0, &mut question);
            if &question != b"ping" {
                return Err(failed(QueueError::Shape(chain.head())));
            }
            chain.writable.write(queue.memory(), 0, b"pong");
            queue.push_used(&chain, 4).map_err(failed)?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.tell(Call::Reset);
    }
}

impl Drop for Pong {
    fn drop(&mut self) {
        self.tell(Call::Dropped);
    }
}

fn start(
    device_type: DeviceType,
    sizes: &'static [u16],
) -> (Frontend, Receiver<Call>, UnixStream, JoinHandle<()>) {
    let (device, calls, event) = Pong::new(device_type, sizes);
    let (socket, thread) = serve(Box::new(device), seccomp::Mode::Log).unwrap();
    (Frontend::new(socket), calls, event, thread)
}

#[test]
fn offers_what_it_has() {
    let (mut frontend, ..) = start(DeviceType::Block, &[16, 16]);
    assert_eq!(frontend.features(), 0b101 | 1 << 28 | 1 << 29 | PROTOCOL | 1 << 32);
    frontend.negotiate(PROTOCOL);
    assert_eq!(frontend.queue_count(), 2);
    assert_eq!(frontend.config(3, 13), b"figuration\0\0\0");

    let (mut frontend, ..) = start(DeviceType::Vsock, &[16, 16, 16]);
    frontend.negotiate(PROTOCOL);
    assert_eq!(frontend.queue_count(), 2, "the event queue stays in the frontend");
}

#[test]
fn carries_a_device() {
    let (mut frontend, calls, mut event, thread) = start(DeviceType::Vsock, &[16, 16, 16]);
    let accepted = 1 << 32 | PROTOCOL | 1;
    frontend.negotiate(accepted);
    assert_eq!(calls.recv().expect(CALLS), Call::Features(accepted & !PROTOCOL));
    frontend.share_memory();
    frontend.set_up_ring(0);
    frontend.ask(b"ping");
    // Not all queues work yet: nothing happens, and nothing is lost.
    frontend.kick(0);
    frontend.enable(0);
    frontend.set_up_ring(1);
    io::Write::write_all(&mut event, b"!").unwrap();
    frontend.config(0, 1);
    assert_eq!(calls.try_recv().ok(), None);
    frontend.enable(1);
    assert_eq!(calls.recv().expect(CALLS), Call::Process(Wake::Queue(0), 3));
    assert_eq!(calls.recv().expect(CALLS), Call::Process(Wake::Queue(1), 3));
    assert_eq!(calls.recv().expect(CALLS), Call::Process(Wake::Queue(0), 3), "the early notification");
    assert_eq!(calls.recv().expect(CALLS), Call::Process(Wake::Events, 3));
    assert_eq!(frontend.answer(), b"pong");

    frontend.ask(b"ping");
    frontend.kick(0);
    assert_eq!(calls.recv().expect(CALLS), Call::Process(Wake::Queue(0), 3));
    assert_eq!(frontend.answer(), b"pong");

    // One queue is stopped: the other one's notifications wait.
    assert_eq!(frontend.stop_ring(0), 2);
    frontend.kick(1);
    frontend.config(0, 1);
    assert_eq!(calls.try_recv().ok(), None);
    assert_eq!(frontend.stop_ring(1), 0);
    assert_eq!(calls.recv().expect(CALLS), Call::Reset);

    drop(frontend);
    thread.join().unwrap();
    assert_eq!(calls.recv().expect(CALLS), Call::Dropped);
}

#[test]
fn a_broken_device_rests_until_it_is_reset() {
    let (mut frontend, calls, mut event, _thread) = start(DeviceType::Block, &[16]);
    // Without protocol features, rings are enabled from the start.
    frontend.negotiate(1 << 32);
    frontend.share_memory();
    frontend.ask(b"nonsense");
    frontend.set_up_ring(0);
    frontend.features();
    assert_eq!(
        calls.try_iter().collect::<Vec<_>>(),
        [Call::Features(1 << 32), Call::Process(Wake::Queue(0), 1)]
    );
    frontend.kick(0);
    io::Write::write_all(&mut event, b"!").unwrap();
    frontend.features();
    assert_eq!(calls.try_recv().ok(), None);

    frontend.stop_ring(0);
    assert_eq!(calls.recv().expect(CALLS), Call::Reset);
    frontend.forget_questions();
    frontend.ask(b"ping");
    frontend.set_up_ring(0);
    assert_eq!(calls.recv().expect(CALLS), Call::Process(Wake::Queue(0), 1));
    assert_eq!(frontend.answer(), b"pong");
}

#[test]
fn bad_requests_end_the_connection() {
    let bad: [fn(&mut Frontend); 6] = [
        |frontend| frontend.set_vring_num(2, 16),
        |frontend| frontend.set_vring_num(0, 15),
        |frontend| frontend.set_vring_num(0, 2048),
        |frontend| frontend.set_vring_addr(0, u64::MAX - 3),
        |frontend| frontend.set_features(1 << 5),
        |frontend| frontend.send(99, &[], &[]),
    ];
    for (index, request) in bad.into_iter().enumerate() {
        let (mut frontend, _calls, _event, thread) = start(DeviceType::Block, &[16]);
        frontend.negotiate(1 << 32);
        frontend.share_memory();
        request(&mut frontend);
        thread.join().unwrap();
        assert!(frontend.is_closed(), "{index}");
    }
}
