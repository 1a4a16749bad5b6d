//! Terminals of containers: the engine's end of them comes over a socket.

use std::{
    io::{IoSliceMut, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixListener,
    },
};

use mote_tests::harness::{Bundle, Terminal, adopt_orphans, reap, shell_status, text};
use nix::{
    pty::Winsize,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};

nix::ioctl_write_ptr_bad!(set_window_size, nix::libc::TIOCSWINSZ, Winsize);

/// The other end of a container's terminal.
struct Console(std::fs::File);

impl Console {
    fn accept(listener: &UnixListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 64];
        let mut room = nix::cmsg_space!([i32; 1]);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let message =
            recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut room), MsgFlags::MSG_CMSG_CLOEXEC)
                .unwrap();
        let Some(ControlMessageOwned::ScmRights(fds)) = message.cmsgs().unwrap().next() else {
            panic!("no descriptor")
        };
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        Self(unsafe { OwnedFd::from_raw_fd(fds[0]) }.into())
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is open, and the kernel reads one `Winsize`.
        unsafe { set_window_size(self.0.as_raw_fd(), &raw const size) }.unwrap();
    }

    fn type_in(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until `text` has appeared, or to the end.
    fn read_until(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        let mut byte = [0];
        while !seen.ends_with(text.as_bytes()) {
            match self.0.read(&mut byte) {
                Ok(1) => seen.push(byte[0]),
                _ => panic!("'{text}' did not appear; there was {:?}", String::from_utf8_lossy(&seen)),
            }
        }
        String::from_utf8_lossy(&seen).into_owned()
    }
}

fn with_terminal(script: &str) -> Bundle {
    let bundle = Bundle::new(script);
    bundle.edit("\"terminal\": false", "\"terminal\": true");
    bundle
}

#[test]
fn a_detached_container_gets_one_over_the_console_socket() {
    adopt_orphans();
    let bundle = with_terminal("stty size; tty; exec sh");
    let (status, said) = bundle.create_with("c", &[]);
    assert_eq!(status, 1);
    assert!(said.contains("without setting console socket"), "{said}");

    let socket = bundle.path("console");
    let listener = UnixListener::bind(&socket).unwrap();
    let (status, said) = bundle.create_with("c", &["--console-socket", &text(&socket)]);
    assert_eq!(status, 0, "{said}");
    let mut console = Console::accept(&listener);
    console.resize(31, 97);
    bundle.ok(&["start", "c"]);
    console.type_in("until [ \"$(stty size)\" = '31 97' ]; do :; done; echo size-$((1 + 1))\r");
    console.read_until("size-2");
    console.resize(40, 120);
    console.type_in("until [ \"$(stty size)\" = '40 120' ]; do :; done; echo resized-$((1 + 1))\r");
    console.read_until("resized-2");

    // One more terminal, for a process that was added.
    let pid_file = text(&bundle.path("exec.pid"));
    bundle.ok(&["exec", "-d", "-t", "--console-socket", &text(&socket), "--pid-file", &pid_file, "c", "sh"]);
    let mut second = Console::accept(&listener);
    second.resize(20, 50);
    second.type_in("until [ \"$(stty size)\" = '20 50' ]; do :; done; echo second-$((1 + 1)); exit 6\r");
    second.read_until("second-2");
    assert_eq!(reap(bundle.pid("exec.pid")), 6);

    console.type_in("exit 5\r");
    assert_eq!(reap(bundle.pid("c.pid")), 5);
    bundle.ok(&["delete", "c"]);
}

#[test]
fn whoever_waits_keeps_the_terminal() {
    let bundle = with_terminal("exec sh");
    let folder = text(&bundle.path(""));
    let mut terminal = Terminal::start(&mut bundle.command(&["run", "--bundle", &folder, "c"]), 31, 97);
    terminal.read_until("# ");
    terminal.type_in("stty size\r");
    terminal.read_until("31 97");
    terminal.resize(40, 120);
    terminal.type_in("until [ \"$(stty size)\" = '40 120' ]; do :; done; echo resized-$((1 + 1))\r");
    terminal.read_until("resized-2");

    let mut second = Terminal::start(&mut bundle.command(&["exec", "-t", "c", "sh"]), 20, 50);
    second.read_until("# ");
    second.type_in("stty size\r");
    second.read_until("20 50");
    second.type_in("sh -c 'echo on-$((1 + 1)); exec sleep 1000'\r");
    second.read_until("on-2");
    second.type_in("\x03");
    second.read_until("# ");
    second.type_in("exit 7\r");
    assert_eq!(shell_status(second.wait()), 7);
    assert!(second.is_restored());

    terminal.type_in("exit 5\r");
    assert_eq!(shell_status(terminal.wait()), 5);
    assert!(terminal.is_restored());
    bundle.mote(&["state", "c"]).assert_refused(1, "container does not exist");
}
