# The machine image. `make bake` makes it on AWS; `make bake-local` runs the same source against an emulated EC2 whose
# instance is a root file system on this machine (docs/decisions/0019-image.md). Debian's Packer 1.6.6 reads only this
# file, newer versions the folder. Values come from versions.pkrvars.hcl and from scripts/bake-image.sh.

# --- what is baked ---

variable "architecture" {
  type        = string
  description = "As Debian says it: arm64 or amd64."
}

variable "version" {
  type        = string
  description = "Of the binary, as in Cargo.toml."
}

variable "commit" {
  type        = string
  description = "The commit's full SHA, with -dirty behind it where files differ from it."
}

variable "committed_at" {
  type        = string
  description = "The commit's time in seconds since 1970: nothing in the image is younger."
}

variable "stage" {
  type        = string
  description = "Folder salebell-bake with all that goes into the image: binary, units, scripts."
}

variable "output" {
  type        = string
  description = "Folder for the manifest and the SBOM."
}

variable "python" {
  type        = string
  default     = "python3"
  description = "A Python that has the packages of tests/clients/requirements.txt."
}

# --- where ---

variable "region" {
  type    = string
  default = "eu-central-1"
}

variable "copy_to_regions" {
  type    = list(string)
  default = []
}

variable "share_with_accounts" {
  type        = list(string)
  default     = []
  description = "Account ids. The accounts need the key's permission too, so kms_key_id must be a customer's key then."
}

variable "kms_key_id" {
  type        = string
  default     = ""
  description = "ARN of the key for the volume; without it AWS's own for EBS, which cannot be shared."
}

variable "region_kms_key_ids" {
  type        = map(string)
  default     = {}
  description = "Region to key, for every region in copy_to_regions; or nothing."
}

variable "subnet_id" {
  type        = string
  default     = ""
  description = "Where to bake; without it the default VPC."
}

variable "instance_types" {
  type = map(string)
  default = {
    amd64 = "t3a.small"
    arm64 = "t4g.small"
  }
}

variable "cost_centre" {
  type    = string
  default = "salebell"
}

variable "publish_to" {
  type        = string
  default     = ""
  description = "s3://bucket/prefix for the manifest, the SBOM and the migration; the first two are in the output folder in any case."
}

# --- an emulated EC2 instead of AWS ---

variable "ec2_endpoint" {
  type    = string
  default = ""
}

variable "ssh_host" {
  type    = string
  default = ""
}

variable "ssh_port" {
  type    = number
  default = 22
}

variable "ssh_private_key_file" {
  type    = string
  default = ""
}

# --- versions.pkrvars.hcl ---

variable "debian_release" {
  type = string
}

variable "debian_version" {
  type = string
}

variable "source_ami_owner" {
  type = string
}

variable "source_ami_release" {
  type = string
}

variable "ssm_agent_version" {
  type = string
}

variable "ssm_agent_url" {
  type = string
}

variable "ssm_agent_key_fingerprint" {
  type = string
}

variable "cloudwatch_agent_version" {
  type = string
}

variable "cloudwatch_agent_url" {
  type = string
}

variable "cloudwatch_agent_key_fingerprint" {
  type = string
}

locals {
  emulated = var.ec2_endpoint != ""
  name     = "salebell-${var.architecture}-${var.commit}"
  tags = {
    Name         = local.name
    Project      = "salebell"
    Environment  = "all"
    Component    = "image"
    Version      = var.commit
    Release      = var.version
    Architecture = var.architecture
    CostCentre   = var.cost_centre
    ManagedBy    = "packer"
  }
}

source "amazon-ebs" "salebell" {
  region        = var.region
  instance_type = var.instance_types[var.architecture]
  subnet_id     = var.subnet_id

  source_ami_filter {
    filters = {
      name                = "debian-${var.debian_version}-${var.architecture}-${var.source_ami_release}"
      virtualization-type = "hvm"
      root-device-type    = "ebs"
    }
    owners      = [var.source_ami_owner]
    most_recent = true
  }

  ami_name           = local.name
  ami_description    = "Salebell ${var.version} on Debian ${var.debian_version}"
  ami_users          = var.share_with_accounts
  ami_regions        = var.copy_to_regions
  encrypt_boot       = true
  kms_key_id         = var.kms_key_id
  region_kms_key_ids = var.region_kms_key_ids
  tags               = local.tags
  snapshot_tags      = local.tags
  run_tags           = local.tags
  run_volume_tags    = local.tags

  # The volume of the bake, and therefore of the image. Packer 1.6.6 accepts gp3 only together with a throughput.
  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_type           = "gp3"
    volume_size           = 8
    iops                  = 3000
    throughput            = 125
    encrypted             = true
    kms_key_id            = var.kms_key_id
    delete_on_termination = true
  }

  # Packer uses the user and its key only for the bake: scripts/clean-image.sh removes both, and the SSH server with
  # them.
  communicator         = "ssh"
  ssh_username         = "admin"
  ssh_host             = var.ssh_host
  ssh_port             = var.ssh_port
  ssh_private_key_file = var.ssh_private_key_file
  ssh_timeout          = "5m"

  custom_endpoint_ec2        = var.ec2_endpoint
  skip_credential_validation = local.emulated
  skip_metadata_api_check    = local.emulated
  skip_region_validation     = local.emulated
}

build {
  sources = ["source.amazon-ebs.salebell"]

  provisioner "file" {
    source      = var.stage
    destination = "/tmp"
  }

  provisioner "shell" {
    execute_command = "chmod +x {{ .Path }}; sudo env {{ .Vars }} {{ .Path }}"
    environment_vars = [
      "SOURCE_DATE_EPOCH=${var.committed_at}",
      "EMULATED=${local.emulated}",
      "SSM_AGENT_VERSION=${var.ssm_agent_version}",
      "SSM_AGENT_URL=${var.ssm_agent_url}",
      "SSM_AGENT_KEY_FINGERPRINT=${var.ssm_agent_key_fingerprint}",
      "CLOUDWATCH_AGENT_VERSION=${var.cloudwatch_agent_version}",
      "CLOUDWATCH_AGENT_URL=${var.cloudwatch_agent_url}",
      "CLOUDWATCH_AGENT_KEY_FINGERPRINT=${var.cloudwatch_agent_key_fingerprint}",
    ]
    scripts = [
      "packer/scripts/install-packages.sh",
      "packer/scripts/install-salebell.sh",
      "packer/scripts/install-aws-agents.sh",
      "packer/scripts/harden.sh",
      "packer/scripts/list-contents.sh",
    ]
  }

  # The manifest and the SBOM are written on this side, where the crates are known, and copied back into the image.
  provisioner "file" {
    direction   = "download"
    source      = "/tmp/salebell-bake/contents.tar"
    destination = "${var.output}/contents.tar"
  }

  provisioner "shell-local" {
    inline = [
      "${var.python} packer/write-manifest.py --name ${local.name} --version ${var.version} --commit ${var.commit} --committed-at ${var.committed_at} --architecture ${var.architecture} --contents ${var.output}/contents.tar --crates ${var.output}/crates.json --output ${var.output}"
    ]
  }

  provisioner "file" {
    generated   = true
    sources     = ["${var.output}/manifest.json", "${var.output}/sbom.cdx.json"]
    destination = "/tmp/salebell-bake/contents/"
  }

  # A single provisioner, because nothing can be uploaded afterwards: clean-image.sh ends the SSH server.
  provisioner "shell" {
    execute_command  = "chmod +x {{ .Path }}; sudo env {{ .Vars }} {{ .Path }}"
    environment_vars = ["SOURCE_DATE_EPOCH=${var.committed_at}"]
    skip_clean       = true
    inline = [
      "cd /",
      "/tmp/salebell-bake/scripts/clean-image.sh",
      "/tmp/salebell-bake/scripts/validate-image.sh /",
      "rm -rf /tmp/salebell-bake",
    ]
  }

  post-processors {
    post-processor "manifest" {
      output     = "${var.output}/packer-manifest.json"
      strip_path = true
      custom_data = {
        commit = var.commit
      }
    }

    # Packer 1.6.6 cannot register an image that requires IMDSv2, so the requirement is added here, in every region.
    post-processor "shell-local" {
      inline = [
        "${var.python} packer/publish-image.py --output ${var.output} --binary ${var.stage}/salebell --regions '${join(" ", concat([var.region], var.copy_to_regions))}' --accounts '${join(" ", var.share_with_accounts)}' --endpoint '${var.ec2_endpoint}' --publish-to '${var.publish_to}'"
      ]
    }
  }
}
