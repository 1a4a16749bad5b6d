// SPDX-License-Identifier: GPL-2.0
/*
 * Makes every run of a guest that starts with an injected interrupt end at once, so that QEMU forgets the interrupt.
 *
 * QEMU's VMRUN delivers the interrupt, but leaves its vector in the CPU's exception_index. Any exit of the guest, exception or
 * interrupt resets that; but if the instruction counter runs out first, QEMU takes the vector for an exception that is still to be
 * delivered, and delivers it for a second time, whether the guest has interrupts enabled or not. A guest that holds a lock then
 * waits for itself.
 *
 * An interrupt that is pending for L1 when it enters the guest ends the run before the guest's first instruction, and after the
 * delivery. On hardware this would be a wasted exit and nothing else: KVM is asked to look once more at what it tells the guest of
 * its interrupts, or the exit would cost the guest the right to end this one without another exit.
 */
#include <linux/kvm_host.h>
#include <linux/module.h>
#include <linux/smp.h>
#include <linux/tracepoint.h>

/* KVM's own; its header is not among those that are installed. */
extern struct tracepoint __tracepoint_kvm_entry;

/* Interrupts are off here, until the VMRUN. */
static void before_run(void *data, struct kvm_vcpu *vcpu)
{
	if (vcpu->arch.interrupt.injected) {
		kvm_make_request(KVM_REQ_EVENT, vcpu);
		smp_send_reschedule(smp_processor_id());
	}
}

static int __init lab_repair_init(void)
{
	return tracepoint_probe_register(&__tracepoint_kvm_entry, before_run, NULL);
}

module_init(lab_repair_init);
MODULE_DESCRIPTION("Works around a doubled interrupt in QEMU's emulation of AMD-V");
MODULE_LICENSE("GPL");
