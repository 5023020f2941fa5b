locals {
  # What a node has left for pods after the kubelet, the system and the daemon sets (CNI, proxy, CSI, pod identity).
  room = {
    "t4g.large"  = { cpu_m = 1680, memory_mib = 6400 }
    "m7g.large"  = { cpu_m = 1680, memory_mib = 6400 }
    "m7g.xlarge" = { cpu_m = 3670, memory_mib = 14000 }
  }

  # Requests of k8s/base/stream-processor; a shard may use up to its limit of memory, so that is what counts here.
  shard = { cpu_m = 500, memory_mib = 1024 }
  # Argo CD, Prometheus, Alertmanager, Grafana, broker, CoreDNS, and one training at a time.
  platform = { cpu_m = 3000, memory_mib = 7000 }

  nodes_for_cpu    = ceil((local.platform.cpu_m + var.shards * local.shard.cpu_m) / local.room[var.node_type].cpu_m)
  nodes_for_memory = ceil((local.platform.memory_mib + var.shards * local.shard.memory_mib) / local.room[var.node_type].memory_mib)
  nodes_needed     = max(local.nodes_for_cpu, local.nodes_for_memory)

  # One zone may be gone and everything still fits.
  nodes_spare = var.protected ? ceil(local.nodes_needed / (var.zone_count - 1)) : 0
  nodes       = max(var.zone_count, local.nodes_needed + local.nodes_spare)
}

output "nodes" {
  description = "Of the one node group"
  value = {
    instance_types = [var.node_type]
    ami_type       = "AL2023_ARM_64_STANDARD"
    capacity_type  = var.spot ? "SPOT" : "ON_DEMAND"
    min_size       = var.zone_count
    desired_size   = local.nodes
    # A rolling update of the nodes brings new ones before the old ones go.
    max_size = local.nodes + var.zone_count
  }
}

output "protection" {
  description = "What differs between an environment that may be thrown away and one that may not"
  value = {
    force_destroy         = !var.protected
    deletion_protection   = var.protected
    single_nat_gateway    = !var.protected
    flow_logs             = var.protected
    log_days              = var.protected ? 365 : 14
    key_deletion_days     = var.protected ? 30 : 7
    argocd_replicas       = var.protected ? 2 : 1
    automatic_deployments = !var.protected
  }
}
