# Two commands do everything: `make run` and `make test`. Both install what is missing and build what is not there yet.

CMD ?= echo "Hello from $$(uname -sr), PID $$$$ of a machine of its own"
PREFIX ?= /usr/local
TIME ?= 60
TARGET := target/x86_64-unknown-linux-gnu/release
MOTE := target/bin/mote
LIB := target/lib/mote
BENCH := cargo run --quiet --locked -p mote-tests --bin bench --
BASELINE := tests/baseline.json

.PHONY: all run test check-deps kernel rootfs build lab bench bench-gate bench-baseline bench-walls boot-functions fuzz miri fmt lint install clean help

all: build

help: ## Show what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

run: build ## Boot a microVM and run CMD in it (default: a greeting)
	$(MOTE) run -- sh -c '$(subst ','\'',$(CMD))'

test: build ## Run every check and every test, in both lanes
	@tests/run

build: check-deps kernel rootfs ## Build mote, the guest kernel and the default root file system
	cargo build --release --locked --bin mote
	@mkdir -p $(dir $(MOTE))
	@install -m 755 $(TARGET)/mote $(MOTE)

check-deps:
	@tests/dependencies

kernel: check-deps ## Build the guest kernel, once a machine and configuration
	@mkdir -p $(LIB)
	@vmlinux=$$(kernel/build) && ln -sfn "$$vmlinux" $(LIB)/vmlinux

rootfs: check-deps ## Build the default root file system
	@mkdir -p $(LIB)
	@image=$$(rootfs-builder/default-rootfs) && ln -sfn "$$image" $(LIB)/rootfs.erofs

lab: build ## Open the lab, a machine with KVM, or run CMD in it
	cargo run --quiet --release --locked -p mote-tests --bin lab -- \
	    --file $(MOTE):/usr/bin/mote --file $(LIB)/vmlinux:/usr/lib/mote/vmlinux \
	    --file $(LIB)/rootfs.erofs:/usr/lib/mote/rootfs.erofs \
	    $(if $(filter command\ line,$(origin CMD)),-- sh -c '$(subst ','\'',$(CMD))')

bench: build ## Measure starts, memory and throughput in the lab, and the import of images, beside their limits
	$(BENCH) $(MOTE) $(LIB)/vmlinux $(LIB)/rootfs.erofs
	cargo run --quiet --release --locked -p mote-tests --bin bench-images -- $(MOTE) $(LIB)/vmlinux

bench-walls: build ## Measure in the lab what the walls around a sandbox cost (builds a mote without any)
	tests/walls $(MOTE) $(LIB)/vmlinux $(LIB)/rootfs.erofs

bench-gate: build ## Fail if a figure of the lab is more than 3 % worse than in the baseline
	$(BENCH) --gate $(BASELINE) $(MOTE) $(LIB)/vmlinux $(LIB)/rootfs.erofs

bench-baseline: build ## Make the lab's figures of now the baseline; commit it with the reason
	$(BENCH) --update $(BASELINE) $(MOTE) $(LIB)/vmlinux $(LIB)/rootfs.erofs

boot-functions: build ## See which of the kernel's functions a boot needs, and have the next kernel put them together
	cargo run --quiet --release --locked -p mote-tests --bin boot-functions -- $(MOTE) $(LIB)/vmlinux $(LIB)/rootfs.erofs \
	    > target/boot-functions.txt
	@mv target/boot-functions.txt kernel/boot-functions.txt

fuzz: check-deps ## Fuzz each target for TIME seconds (default: 60)
	@TIME=$(TIME) tests/fuzz

miri: check-deps ## Run what Miri can run under Miri, which finds undefined behaviour
	@tests/miri

fmt: ## Format the source
	cargo fmt
	cargo fmt --manifest-path fuzz/Cargo.toml

lint: check-deps ## Check format, lints and licences
	@tests/lint

install: build ## Install mote and its files below PREFIX
	install -D -m 755 $(MOTE) $(DESTDIR)$(PREFIX)/bin/mote
	install -D -m 644 $(LIB)/vmlinux $(DESTDIR)$(PREFIX)/lib/mote/vmlinux
	install -D -m 644 $(LIB)/rootfs.erofs $(DESTDIR)$(PREFIX)/lib/mote/rootfs.erofs
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	$(MOTE) man $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	$(MOTE) completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/mote

clean: ## Remove what was built in the tree; the kernel's cache stays
	cargo clean
