# Fuzzing by hand. `make test` only replays what was found (fuzz/tests/replay.rs).
#   make fuzz                                      every target, FUZZ_SECONDS (600) each; totals in fuzz/results.md
#   make fuzz TARGETS="flow rpc" FUZZ_SECONDS=60
# FUZZ_LOCK=FILE holds FILE shared during each slice, for machines that also measure; FUZZ_CONTINUE=1 goes on with an
# interrupted run.

FUZZ_SECONDS ?= 600
export FUZZ_SECONDS

.PHONY: fuzz
fuzz: ## Ten minutes of each fuzz target (TARGETS= for some, FUZZ_SECONDS= for another time); totals go to fuzz/results.md
	fuzz/run $(TARGETS)
