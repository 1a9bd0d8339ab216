# make demo and make test need Go, root and Linux 6.1 or later, nothing else.
# The compiled kernel programs are committed; only make generate needs clang (scripts/setup).

GO     ?= go
BIN    := bin/xdpha
SUDO   := $(if $(filter 0,$(shell id -u)),,sudo)
DEMO   ?= --fault power
# For example: make bench BENCH='-runs 3 -only answers,flood -json bench.json'
BENCH  ?=
# For example: make bench-peers BENCH_PEERS='-rounds 20 -json peers.json'
BENCH_PEERS ?=
# For example: make bench-outage BENCH_OUTAGE='-only kinds -rounds 20 -json outage.json'
BENCH_OUTAGE ?=
# For example: make bench-tickle BENCH_TICKLE='-rounds 100'
BENCH_TICKLE ?= -rounds 20
# For example: make faults FAULTS='-rounds 1000 -seed 1 -json faults.json'
FAULTS ?=
# For example: make article ARTICLE='-faults hang,lan'; ARTICLE=-short breaks each node once.
ARTICLE ?=
# For example: make returns RETURNS='-rounds 50 -seed 1'
RETURNS ?=
# For example: make fuzz FUZZ='-for 10m -frames 100000000 -seed 7'
FUZZ   ?=
# How long a busy machine is looked at.
SOAK   ?= -for 30m

# Tests and benchmarks measure milliseconds: packages run one after the other.
TEST   ?= ./...

.PHONY: build demo test unit race generate bench bench-peers bench-outage bench-tickle bench-mirror faults article returns soak sim orders fuzz lint clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN) ./ctl/xdpha

demo: build
	$(SUDO) $(BIN) demo $(DEMO)

test:
	$(GO) test -p 1 -timeout 20m $(TEST)

# What needs no root: the pure packages, and those that fake the kernel. The race detector
# makes everything some ten times slower, so a test of how long something takes is left out.
race:
	$(GO) test -race -skip 'InTime$$' ./pkg/core ./pkg/config ./pkg/control ./pkg/metrics ./pkg/service ./pkg/wire ./ctl

# The systemd unit, under a real systemd in namespaces of its own.
unit: build
	$(SUDO) scripts/unit

generate:
	$(GO) generate ./bpf

bench: build
	$(GO) run $(if $(SUDO),-exec $(SUDO)) ./scripts/bench $(BENCH)

# xdpha beside keepalived, if that is installed: scripts/setup --peers.
bench-peers: build
	$(GO) run $(if $(SUDO),-exec $(SUDO)) ./scripts/bench-peers $(BENCH_PEERS)

# What a client sees when something breaks; exit status 1 if two nodes served at once, or none.
bench-outage: build
	$(GO) run $(if $(SUDO),-exec $(SUDO)) ./scripts/bench-outage $(BENCH_OUTAGE)

# When an idle client is connected again after a takeover: with a tickle, and without.
bench-tickle: build
	$(GO) run $(if $(SUDO),-exec $(SUDO)) ./scripts/bench-outage -only tickle -profile balanced $(BENCH_TICKLE)

# Faults of all kinds, drawn at random and two at a time; exit status 1 if two nodes served at once
# where it is not documented, or the pair did not come to rest.
faults: build
	$(GO) run $(if $(SUDO),-exec $(SUDO)) ./scripts/bench-outage -only pairs -profile balanced -keep faults-kept $(FAULTS)

# Mirrors: how long 50,000 unchanged files of 6 GB take to compare, and a change to be on the other node.
bench-mirror:
	$(GO) test $(if $(SUDO),-exec $(SUDO)) -run '^$$' -bench . -benchtime 25x ./pkg/mirror

# The article's cluster with today's programs and their clients: scripts/setup --article. Exit status 1
# if a client was not served again, if data was lost, or if what must run once ran twice.
article: build
	$(GO) run $(if $(SUDO),-exec $(SUDO)) ./scripts/article $(ARTICLE)

# The return of a node, with a fault at a drawn moment of each. Exit status 1 if a service started before its
# data was back.
returns: build
	$(GO) run $(if $(SUDO),-exec $(SUDO)) ./scripts/returns $(RETURNS)

# Nothing breaks, the machine is only busy: nobody may move.
soak: build
	$(GO) run $(if $(SUDO),-exec $(SUDO)) ./scripts/bench-outage -only ladder $(SOAK)

# Pairs of nodes, and more, by virtual time, seed after seed: make sim SIM='-for 10m'
sim:
	$(GO) run ./scripts/sim $(SIM)

# All orders of what may happen in small worlds: make orders ORDERS='-states 5000000 -held-up 2'
orders:
	$(GO) run ./scripts/sim -orders $(ORDERS)

# Frames to the loaded kernel programs, bytes to all that reads some: make fuzz FUZZ='-for 10m'
fuzz:
	$(GO) run $(if $(SUDO),-exec $(SUDO)) ./scripts/fuzz $(FUZZ)

lint:
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@test -z "$$(gofmt -l bpf loader ctl pkg)" || { gofmt -l bpf loader ctl pkg; echo 'run: gofmt -w on these'; exit 1; }

clean:
	rm -rf bin
