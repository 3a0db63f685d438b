# Every target installs what it needs: a fresh Debian 12, 13 or Ubuntu 24.04 with Rust and make is enough.

.PHONY: help run test fuzz-api check-stacks format reference bake bake-local bake-compare rehearse rehearse-vm deploy status destroy rollout rollback change-sets smoke verify-image migrate pipeline-profile package shell logs mute cost diagram bench-ingest bench-import bench-fanout bench-read bench-webhook bench-latency bench-idle bench-boot bench-units bench-upload bench-download bench-growth

help: ## lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## installs what is missing, builds, and runs `salebell dev` (ARGS="--listen 127.0.0.1:0")
	@scripts/run-dev.sh $(ARGS)

test: ## installs what is missing and runs every check (ARGS="watches" for some of the tests)
	@scripts/run-tests.sh $(ARGS)

fuzz-api: ## sends the API what Schemathesis makes of the OpenAPI document (ARGS="--include-tag watches"; takes long)
	@scripts/fuzz-api.sh $(ARGS)

check-stacks: ## checks the CloudFormation stacks without AWS, with checkov as a second opinion (part of `make test` without it)
	@scripts/install-packages.sh test
	@scripts/check-stacks.sh --all

format: ## formats the Rust sources
	cargo fmt --all

reference: ## writes the pages of docs/reference/ that the program prints
	@for page in settings metrics logs routes problems commands; do cargo run --locked --quiet -- reference $$page > docs/reference/$$page.md || exit; done

bake-local: ## bakes the machine image into a root file system on this machine (docs/decisions/0019-image.md)
	@scripts/bake-image.sh local $(ARGS)

bake: ## bakes the machine image on AWS (ARGS="-var-file=yours.pkrvars.hcl", IMAGE_FILE=image.json for its description)
	@SALEBELL_IMAGE_FILE=$(call whole,IMAGE_FILE) scripts/bake-image.sh aws $(ARGS)

bake-compare: ## bakes twice and compares the images file by file
	@scripts/compare-bakes.sh

rehearse: ## boots a fleet, puts a load on it, rolls and breaks it (SCENARIO=roll for one; docs/decisions/0023-rehearsal.md)
	@scripts/rehearse.sh $(SCENARIO)

rehearse-vm: ## boots the image as a virtual machine: its kernel, initrd, fstab and network (takes minutes; needs qemu)
	@scripts/rehearse-vm.sh

# Only 1 means yes; YES=0, for example, means no. A value reaches a program exactly as it was typed: neither make (hence
# $(value)) nor a shell interprets it.
flag = $(if $(filter 1,$(value $(1))),--$(2))
quoted = '$(subst ','\'',$(1))'
whole = $(call quoted,$(value $(1)))
given = $(if $(value $(1)),--$(2)=$(call whole,$(1)))
each = $(foreach word,$(value $(1)),$(call quoted,$(word)))
# The steps of a pipeline pass an image on as the file of its bake.
ifneq ($(filter %.json,$(value IMAGE)),)
override IMAGE := $(shell sed -n 's/^ "image": "\(ami-[0-9a-f]*\)",$$/\1/p' $(call whole,IMAGE))
endif

deploy: ## deploys the stacks (ENV=dev; STACK=network for one, REVERT=1 against drift, PARAMETERS="ImageId=ami-…", YES=1)
	@scripts/stacks.sh deploy --environment=$(call whole,ENV) $(call given,STACK,stack) $(call flag,REVERT,revert) $(call flag,YES,yes) $(call flag,REPLACE,replace) $(if $(value PARAMETERS),--parameters $(call each,PARAMETERS))

status: ## shows the stacks and what needs a person's attention (ENV=dev)
	@scripts/stacks.sh status --environment=$(call whole,ENV)

destroy: ## deletes the stacks of an environment, and lists what stays (ENV=dev; never prod)
	@scripts/stacks.sh destroy --environment=$(call whole,ENV) $(call flag,YES,yes)

cost: ## computes what each environment costs in a month, into docs/reference/cost.md
	@scripts/stacks.sh cost

diagram: ## draws the stacks as the templates define them, into docs/reference/stacks.md
	@scripts/stacks.sh diagram

shell: ## opens a recorded shell on an instance (ENV=dev TICKET=OPS-123; INSTANCE=i-…, PERSON=profile; docs/guides/escalate.md)
	@scripts/stacks.sh shell --environment=$(call whole,ENV) $(call given,INSTANCE,instance) $(call given,TICKET,ticket) $(call given,PERSON,person) $(call flag,YES,yes)

logs: ## follows the logs (ENV=dev; REQUEST_ID=… for all lines of a request; SINCE=2h, LEVEL=warning, GROUP=access, JSON=1)
	@scripts/stacks.sh logs --environment=$(call whole,ENV) $(call given,REQUEST_ID,request-id) $(call given,SINCE,since) $(call given,LEVEL,level) $(call given,GROUP,group) $(call flag,JSON,json)

mute: ## keeps the alarms quiet for some minutes (ENV=dev MINUTES=30 REASON="…"; MINUTES=0 ends it)
	@scripts/stacks.sh mute --environment=$(call whole,ENV) --minutes=$(call whole,MINUTES) $(call given,REASON,reason) $(call flag,YES,yes)

package: ## makes a Debian package and an OCI image of this commit (docs/guides/other-hosts.md)
	@scripts/make-package.sh $(ARGS)

change-sets: ## shows what a deploy would change, without changing it (ENV=prod, TO=s3://bucket/key.txt for a copy)
	@scripts/stacks.sh change_sets --environment=$(call whole,ENV) $(call given,TO,to)

smoke: ## sends an environment the requests of clients (ENV=dev; SALEBELL_KEY=sbk_… for a sale from report to notice)
	@scripts/stacks.sh smoke --environment=$(call whole,ENV)

verify-image: ## starts an instance of an image alone, checks it and ends it (IMAGE=ami-…, or the file of a bake)
	@scripts/stacks.sh verify_image --environment=tools --image=$(call whole,IMAGE)

# In CodeBuild, with the archive that packer/publish-image.py has made.
migrate:
	@bash scripts/pipelines/migrate.sh $(call whole,IMAGE_NAME)

# In CodeBuild: the AWS profile for a role of the environment, ROLE=deploy or rollout.
pipeline-profile:
	@scripts/pipelines/write-profile.sh $(call whole,ENV) $(call whole,ACCOUNT) $(call whole,ROLE)

rollout: ## rolls out an image (ENV=prod IMAGE=ami-…; CANARY=0, GATES=off, MINUTES=10, MIN_REQUESTS=200, MIGRATED=1, YES=1)
	@scripts/stacks.sh rollout --environment=$(call whole,ENV) --image=$(call whole,IMAGE) $(call given,CANARY,canary) $(call given,GATES,gates) $(call given,MINUTES,minutes) $(call given,MIN_REQUESTS,min-requests) $(call flag,MIGRATED,migrated) $(call flag,YES,yes)

rollback: ## rolls the live group back to the previous image, and removes a canary (ENV=prod; IMAGE=ami-… for another one, YES=1)
	@scripts/stacks.sh rollback --environment=$(call whole,ENV) $(call given,IMAGE,image) $(call flag,YES,yes)

bench-ingest: ## reported prices a second, against a hand-written SQL merge
bench-import: ## the same from an uploaded CSV file, and the memory for 6 GiB
bench-fanout: ## notices a second of one event with a million watches, against a plain insert
bench-read: ## GET /v1/games/{id}, against pgbench and a Fastify server
bench-webhook: ## deliveries a second, against a bare reqwest loop
bench-latency: ## from a reported price to the webhook's arrival
bench-idle: ## memory and start-up time of an idle API
bench-boot: ## an instance on emulated AWS: time to ready, memory, size
bench-units: ## the units' share of a boot, in one image or in two (IMAGES="OLD NEW", STARTS=10)
bench-upload: ## 2 GiB in one PATCH, against @tus/server and nginx
bench-download: ## 2 GiB, against nginx with sendfile
bench-growth: ## lists, deals, history and search on ten times the catalogue

bench-ingest bench-import bench-fanout bench-read bench-webhook bench-latency bench-idle bench-boot bench-upload bench-download bench-growth:
	@scripts/install-packages.sh bench
	@benches/$(@:bench-%=%).sh

bench-units:
	@benches/units.sh $(call each,IMAGES)
