provider "aws" {
  region = var.region

  # Keeps a plan that was made for one environment out of the other's account.
  allowed_account_ids = [var.account_id]
}

provider "helm" {
  kubernetes = {
    host                   = module.platform.cluster_endpoint
    cluster_ca_certificate = base64decode(module.platform.cluster_ca)
    exec = {
      api_version = "client.authentication.k8s.io/v1beta1"
      command     = "aws"
      args        = ["eks", "get-token", "--region", var.region, "--cluster-name", module.platform.cluster_name]
    }
  }
}
