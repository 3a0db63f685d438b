# Every version that the image takes from elsewhere. The Debian packages are listed in packages.txt and come in the
# version of Debian's stable release on the day of the bake; the manifest in the image records the versions.

debian_release = "trixie"
debian_version = "13"

# Debian's own account on AWS, and the date and number of the machine image to start from; "*" selects the newest.
source_ami_owner   = "136693071363"
source_ami_release = "*"

# Installed only on AWS. %VERSION% and %ARCH% are replaced; the signature has the same URL with ".sig" appended.
ssm_agent_version        = "3.3.1802.0"
ssm_agent_url            = "https://s3.amazonaws.com/ec2-downloads-windows/SSMAgent/%VERSION%/debian_%ARCH%/amazon-ssm-agent.deb"
cloudwatch_agent_version = "1.300057.1b1167"
cloudwatch_agent_url     = "https://amazoncloudwatch-agent.s3.amazonaws.com/debian/%ARCH%/%VERSION%/amazon-cloudwatch-agent.deb"

# Who must have signed them. AWS replaces the key of the SSM agent every year or two and prints the new one, with its
# fingerprint, in "Verifying the signature of SSM Agent" of the Systems Manager user guide only: save it as
# packer/keys/amazon-ssm-agent.asc and write its fingerprint here. The same for the CloudWatch agent, whose guide has
# "Verifying the signature of the CloudWatch agent package", as packer/keys/amazon-cloudwatch-agent.asc.
ssm_agent_key_fingerprint        = ""
cloudwatch_agent_key_fingerprint = "937616F3450B7D806CBD9725D58167303B789C72"
