//! What the kernel must be told on its command line to boot on the machine that we are.

use super::layout;

/// The options every guest gets, on every hypervisor.
///
/// The kernel log leaves through the early console: it costs a handful of port writes to set up and needs no driver. At
/// `loglevel=1` only the highest level is printed: the kernel's last words. Restarting is a triple fault, which every
/// hypervisor reports; a panic restarts at once.
///
/// The order counts: the console prints what was logged so far at the moment that it is named, so the level comes first. The
/// other way round, the kernel's first lines cost 24 ms of exits.
///
/// A kernel that can run on several processors starts with lock prefixes everywhere and, as long as one runs, takes them out, one by
/// one: `noreplace-smp` leaves them, which costs less than it saves.
///
/// The others of several processors are started by whom the guest runs first, if he wants them: with `maxcpus=1` the kernel boots with
/// one. While it boots, each of its waits for all processors costs a time slice of the host's if they share one of the host's.
///
/// `swiotlb=noforce`: with more than 4 GiB, the kernel would keep and clear 64 MiB for devices that reach no further. Ours do.
///
/// `movable_node`: no node of ours is, but with it the kernel takes its first memory from behind itself instead of from the end, where it
/// would be the first to touch two huge pages.
pub(crate) fn base_cmdline(verbose: bool, vcpus: u8) -> String {
    let loglevel = if verbose { 7 } else { 1 };
    let processors = if vcpus == 1 { "" } else { " maxcpus=1" };
    format!(
        "loglevel={loglevel} earlyprintk=serial,0x3f8,115200,keep reboot=t panic=-1 no_timer_check tsc=reliable \
         rcupdate.rcu_expedited=1 random.trust_cpu=on cryptomgr.notests \
         noreplace-smp swiotlb=noforce movable_node{processors}"
    )
}

/// How the kernel finds the virtio-mmio device in window `index`.
pub(crate) fn virtio_mmio_option(index: u32) -> String {
    let address = layout::MMIO_START + u64::from(index) * layout::MMIO_WINDOW;
    format!("virtio_mmio.device=4K@{address:#x}:{}", u32::from(layout::FIRST_IRQ) + index)
}
