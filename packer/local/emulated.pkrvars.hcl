# What `make bake-local` requests from the emulated EC2, so copies, sharing and keys are exercised too.
region              = "eu-central-1"
copy_to_regions     = ["eu-west-1"]
share_with_accounts = ["123456789012"]
kms_key_id          = "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-0000-0000-000000000001"
region_kms_key_ids = {
  eu-west-1 = "arn:aws:kms:eu-west-1:111122223333:key/00000000-0000-0000-0000-000000000002"
}
publish_to = "s3://salebell-images/local"
