# Everything here sets up what it needs: a fresh Debian 12, 13 or Ubuntu 24.04 with Rust and make is enough.

.PHONY: help run test check-stacks format bake bake-local bake-compare rehearse rehearse-vm deploy status destroy bench-ingest bench-import bench-fanout bench-read bench-webhook bench-latency bench-idle bench-boot bench-units bench-upload bench-download bench-growth

help: ## lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## installs what is missing, builds, and runs `salebell dev` (ARGS="--listen 127.0.0.1:0")
	@scripts/run-dev.sh $(ARGS)

test: ## installs what is missing and runs every check (ARGS="watches" for some of the tests)
	@scripts/run-tests.sh $(ARGS)

check-stacks: ## checks the CloudFormation stacks without AWS, with checkov as a second opinion (part of `make test` without it)
	@scripts/install-packages.sh test
	@scripts/check-stacks.sh --all

format: ## formats the Rust sources
	cargo fmt

bake-local: ## bakes the machine image into a root file system on this machine (docs/decisions/image.md)
	@scripts/bake-image.sh local $(ARGS)

bake: ## bakes the machine image on AWS (ARGS="-var-file=yours.pkrvars.hcl")
	@scripts/bake-image.sh aws $(ARGS)

bake-compare: ## bakes twice and compares the images file by file
	@scripts/compare-bakes.sh

rehearse: ## boots a fleet, puts a load on it, rolls and breaks it (SCENARIO=roll for one; docs/decisions/rehearsal.md)
	@scripts/rehearse.sh $(SCENARIO)

rehearse-vm: ## boots the image as a virtual machine: its kernel, initrd, fstab and network (minutes; wants qemu)
	@scripts/rehearse-vm.sh

# 1 is a yes, and nothing else is, such as YES=0. A shell must not read what is in a value.
flag = $(if $(filter 1,$($(1))),--$(2))
quoted = $(foreach word,$(1),'$(subst ','\'',$(word))')

deploy: ## deploys the stacks (ENV=dev; STACK=network for one, REVERT=1 against drift, PARAMETERS="ImageId=ami-…", YES=1)
	@scripts/stacks.sh deploy --environment='$(ENV)' $(STACK:%=--stack='%') $(call flag,REVERT,revert) $(call flag,YES,yes) $(call flag,REPLACE,replace) $(if $(PARAMETERS),--parameters $(call quoted,$(PARAMETERS)))

status: ## what stands on AWS, and what of it needs a person (ENV=dev)
	@scripts/stacks.sh status --environment='$(ENV)'

destroy: ## deletes the stacks of an environment, and says what stays (ENV=dev; never prod)
	@scripts/stacks.sh destroy --environment='$(ENV)' $(call flag,YES,yes)

bench-ingest: ## reported prices a second, against a hand-written SQL merge
bench-import: ## the same from an uploaded CSV file, and the memory that 6 GiB take
bench-fanout: ## notices a second of one event with a million watches, against a plain insert
bench-read: ## GET /v1/games/{id}, against pgbench and a Fastify server
bench-webhook: ## deliveries a second, against a bare reqwest loop
bench-latency: ## from a reported price to the webhook's arrival
bench-idle: ## memory and start-up time of an idle API
bench-boot: ## an instance on emulated AWS: time to ready, memory, size
bench-units: ## what our units take of a boot, in an image or in two (IMAGES="OLD NEW", STARTS=10)
bench-upload: ## 2 GiB in one PATCH, against @tus/server and nginx
bench-download: ## 2 GiB, against nginx with sendfile
bench-growth: ## lists, deals, history and search on ten times the catalogue

bench-ingest bench-import bench-fanout bench-read bench-webhook bench-latency bench-idle bench-boot bench-upload bench-download bench-growth:
	@scripts/install-packages.sh bench
	@benches/$(@:bench-%=%).sh

bench-units:
	@benches/units.sh $(call quoted,$(IMAGES))
