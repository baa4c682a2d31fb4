# Everything a developer does here. The long versions of "test" and "demo" are scripts: .ci/run, demo/demo.sh.

export CGO_ENABLED = 0
PROGRAMS := $(patsubst cmd/%/,%,$(sort $(wildcard cmd/*/)))

.PHONY: all build test unit policy demo test-full bench fuzz lint clean lab

all: build

# static programs: bin/virtd, bin/vctl, bin/virtd-vmm
build: $(PROGRAMS:%=bin/%)

.PHONY: $(PROGRAMS:%=bin/%)
$(PROGRAMS:%=bin/%): bin/%:
	go build -trimpath -o $@ ./cmd/$*

# what CI runs
test:
	.ci/run

# the part of it that needs no lab
unit:
	.ci/run unit

demo: build
	demo/demo.sh

# hours: all of it; picks up where it stopped and leaves docs/test-full.txt
test-full:
	.ci/full

bench:
	bench/run.sh

# every fuzz target for FUZZTIME
fuzz:
	.ci/fuzz

lint:
	.ci/lint

# the test host under software emulation (see lab/README.md)
lab:
	lab/lab.sh build

clean:
	rm -rf bin out
