# The bucket is given at init, since its name has the account in it: see ../../README.md.
terraform {
  backend "s3" {
    key          = "millwright/prod.tfstate"
    encrypt      = true
    use_lockfile = true
  }
}
