# Packer 1.7 and newer fetch the amazon plugin according to this block (`packer init packer`). It is in a file of its
# own because Debian's 1.6.6, which has the plugin built in, does not know the block.
packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = "~> 1.3"
    }
  }
}
