# Fuzzing by hand. `make test` only replays what was found (fuzz/tests/replay.rs).
#   make fuzz                                 every target, FUZZ_SECONDS (600) each; totals in fuzz/results.md
#   make fuzz FUZZ_TARGETS="flow rpc" FUZZ_SECONDS=60
# FUZZ_LOCK=FILE holds FILE shared during each slice, for machines that also measure.

FUZZ_SECONDS ?= 600
FUZZ_TARGETS ?=

.PHONY: fuzz
fuzz:
	FUZZ_SECONDS=$(FUZZ_SECONDS) fuzz/run $(FUZZ_TARGETS)
