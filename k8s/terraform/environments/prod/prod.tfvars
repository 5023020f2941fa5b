# Three zones, on-demand nodes, protected against being destroyed. Account, networks, roles and repository are examples:
# put in your own.
region             = "eu-central-1"
account_id         = "222222222222"
vpc_cidr           = "10.50.0.0/16"
kubernetes_version = "1.35"

zones           = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
shards          = 4
node_type       = "m7g.xlarge"
spot            = false
protected       = true
noncurrent_days = 30
cold_days       = 90

operator_cidrs = ["203.0.113.0/24"]
administrators = { platform = "arn:aws:iam::222222222222:role/platform" }
namespace      = "millwright"
gitops         = { repository = "https://github.com/example/millwright.git", revision = "main", path = "k8s/argocd/prod" }
# Both environments pull from here.
registry = { create = true, reader_accounts = ["111111111111"] }
github   = { repository = "example/millwright" }
