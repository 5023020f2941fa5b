output "cluster_name" {
  description = "For `aws eks update-kubeconfig --name`"
  value       = module.eks.cluster_name
}

output "cluster_endpoint" {
  description = "API server"
  value       = module.eks.cluster_endpoint
}

output "cluster_ca" {
  description = "Certificate of the API server, base64"
  value       = module.eks.cluster_certificate_authority_data
}

output "bucket" {
  description = "`s3.bucket` of the processor's configuration"
  value       = module.archive.s3_bucket_id
}

output "registry_urls" {
  description = "Image to the repository that the workflows push to"
  value       = { for image, repository in module.registry : image => repository.repository_url }
}

output "github_roles" {
  description = "Environment of GitHub to the role for its variable AWS_ROLE_ARN"
  value       = { for name, role in aws_iam_role.github : name => role.arn }
}

output "workload_roles" {
  description = "Program to its role; the pods get it by their service account alone"
  value       = { for name, role in module.workload_role : name => role.iam_role_arn }
}
