# The border: Terraform installs Argo CD and tells it where to look. Everything else in the cluster is in the repository.
resource "helm_release" "argocd" {
  name             = "argocd"
  namespace        = "argocd"
  create_namespace = true
  repository       = "https://argoproj.github.io/argo-helm"
  chart            = "argo-cd"
  version          = "10.1.1"
  atomic           = true
  timeout          = 900

  values = [yamlencode({
    # No ingress: operators use `kubectl port-forward`.
    server         = { replicas = module.layout.protection.argocd_replicas }
    repoServer     = { replicas = module.layout.protection.argocd_replicas }
    applicationSet = { replicas = module.layout.protection.argocd_replicas }
    dex            = { enabled = false }
    configs        = { cm = { "application.resourceTrackingMethod" = "annotation" } }
  })]

  # Without nodes the chart would wait for its pods until it gives up.
  depends_on = [module.eks]
}

resource "helm_release" "root" {
  name       = "root"
  namespace  = helm_release.argocd.namespace
  repository = "https://argoproj.github.io/argo-helm"
  chart      = "argocd-apps"
  version    = "2.0.5"

  # Only the list of applications follows the repository by itself; whether each of them does is said there.
  values = [yamlencode({
    applications = {
      root = {
        namespace = helm_release.argocd.namespace
        project   = "default"
        source = {
          repoURL        = var.gitops.repository
          targetRevision = var.gitops.revision
          path           = var.gitops.path
        }
        destination = { server = "https://kubernetes.default.svc", namespace = helm_release.argocd.namespace }
        syncPolicy  = { automated = { prune = true, selfHeal = true } }
      }
    }
  })]
}
