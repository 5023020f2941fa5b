# Small, cheap, and nothing in it is worth keeping. Account, networks, roles and repository are examples: put in your own.
region             = "eu-central-1"
account_id         = "111111111111"
vpc_cidr           = "10.40.0.0/16"
kubernetes_version = "1.35"

zones           = ["eu-central-1a", "eu-central-1b"]
shards          = 1
node_type       = "t4g.large"
spot            = true
protected       = false
noncurrent_days = 3
cold_days       = null

operator_cidrs = ["203.0.113.0/24"]
administrators = { platform = "arn:aws:iam::111111111111:role/platform" }
namespace      = "millwright"
gitops         = { repository = "https://github.com/example/millwright.git", revision = "main", path = "k8s/argocd/dev" }
# The images are in prod's registry.
registry = { create = false, reader_accounts = [] }
github   = { repository = "example/millwright" }
