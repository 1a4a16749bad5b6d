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
 * delivery. On hardware this would be a wasted exit and nothing else.
 */
#include <linux/kprobes.h>
#include <linux/kvm_host.h>
#include <linux/module.h>
#include <linux/smp.h>

/* Interrupts are off here, until the VMRUN. */
static int before_run(struct kprobe *probe, struct pt_regs *regs)
{
	const struct kvm_vcpu *vcpu = (const struct kvm_vcpu *)regs->di;

	if (vcpu->arch.interrupt.injected)
		smp_send_reschedule(smp_processor_id());
	return 0;
}

static struct kprobe probe = {
	.symbol_name = "svm_vcpu_run",
	.pre_handler = before_run,
};

static int __init lab_repair_init(void)
{
	return register_kprobe(&probe);
}

module_init(lab_repair_init);
MODULE_DESCRIPTION("Works around a doubled interrupt in QEMU's emulation of AMD-V");
MODULE_LICENSE("GPL");
