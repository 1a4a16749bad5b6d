//! A terminal with `mote` at it, and the test in the place of the person.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::{Child, Command, ExitStatus},
    sync::mpsc::{self, Receiver},
};

use nix::{
    pty::{OpenptyResult, Winsize, openpty},
    sys::termios::{Termios, tcgetattr},
};

use super::{HANG, wait};

nix::ioctl_write_ptr_bad!(set_window_size, nix::libc::TIOCSWINSZ, Winsize);

/// A pseudo-terminal and the program that runs at it.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    master: File,
    /// Keeps the terminal and its settings alive after the program has gone.
    slave: OwnedFd,
    output: Receiver<u8>,
    seen: Vec<u8>,
    before: Termios,
}

impl Terminal {
    /// Starts `command` as the leader of a session whose terminal is a new one, of `rows` times `columns`.
    ///
    /// # Panics
    /// No pseudo-terminal, or the program cannot be started.
    #[must_use]
    pub fn start(command: &mut Command, rows: u16, columns: u16) -> Self {
        use std::os::unix::process::CommandExt;
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } =
            openpty(&size, None).unwrap_or_else(|error| panic!("openpty: {error}"));
        let before = tcgetattr(&slave).unwrap_or_else(|error| panic!("tcgetattr: {error}"));
        let stream = || slave.try_clone().unwrap_or_else(|error| panic!("dup: {error}"));
        command.stdin(stream()).stdout(stream()).stderr(stream());
        // SAFETY: between fork and exec only `setsid` and `ioctl` are called, which are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                if nix::libc::ioctl(0, nix::libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        // The streams that the command holds would keep the terminal open.
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let master = File::from(master);
        let mut reader = master.try_clone().unwrap_or_else(|error| panic!("dup: {error}"));
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = reader.read(&mut buffer) {
                if count == 0 || buffer[..count].iter().any(|byte| sender.send(*byte).is_err()) {
                    break;
                }
            }
        });
        Self { child, master, slave, output, seen: Vec::new(), before }
    }

    /// The program's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads until `text` has appeared; returns everything up to its end since the last call.
    ///
    /// # Panics
    /// It does not appear.
    pub fn read_until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.seen.windows(text.len()).position(|window| window == text.as_bytes()) {
                let rest = self.seen.split_off(at + text.len());
                return String::from_utf8_lossy(&std::mem::replace(&mut self.seen, rest)).into_owned();
            }
            match self.output.recv_timeout(HANG) {
                Ok(byte) => self.seen.push(byte),
                Err(_) => {
                    panic!("'{text}' did not appear; there was {:?}", String::from_utf8_lossy(&self.seen))
                }
            }
        }
    }

    /// Types.
    ///
    /// # Panics
    /// The terminal is gone.
    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap_or_else(|error| panic!("type: {error}"));
    }

    /// Makes the window another size, as a person does with the mouse.
    ///
    /// # Panics
    /// The terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is open, and the kernel reads one `Winsize`.
        unsafe { set_window_size(self.master.as_fd().as_raw_fd(), &raw const size) }
            .unwrap_or_else(|error| panic!("TIOCSWINSZ: {error}"));
    }

    /// Waits for the program's end.
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// Whether the terminal's settings are what they were before.
    ///
    /// # Panics
    /// The terminal is gone.
    #[must_use]
    pub fn is_restored(&self) -> bool {
        let now = tcgetattr(&self.slave).unwrap_or_else(|error| panic!("tcgetattr: {error}"));
        now.local_flags == self.before.local_flags
            && now.input_flags == self.before.input_flags
            && now.output_flags == self.before.output_flags
    }
}
