locals {
  # The tables' data; no snapshots, which recovery reads at once.
  table_folders = ["readings", "features", "predictions", "alerts", "events", "births", "gaps", "dead-letter"]

  abort_rule = {
    id                                     = "abandoned-uploads"
    enabled                                = true
    filter                                 = { prefix = "" }
    abort_incomplete_multipart_upload_days = 7
  }

  # The processor deletes its probe itself; a killed one leaves it behind.
  probe_rule = {
    id                            = "probes"
    enabled                       = true
    filter                        = { prefix = "manifest/probe/" }
    expiration                    = { days = 1 }
    noncurrent_version_expiration = { days = 1 }
  }

  # Only what the compactor or the registry has already deleted or overwritten. Objects in force never expire: a manifest
  # names them, and a table with a hole is a broken one. Nothing below manifest/v1/ expires in any way, since manifests and
  # records are never deleted and every other rule depends on them.
  noncurrent_rules = [for prefix in ["archive/v1/", "models/"] : {
    id                            = "deleted-${split("/", prefix)[0]}"
    enabled                       = true
    filter                        = { prefix = prefix }
    noncurrent_version_expiration = { days = var.noncurrent_days }
    expiration                    = { expired_object_delete_marker = true }
  }]

  # Read at once like any other, only dearer: what a reader of old months pays for.
  cold_rules = [for folder in(var.cold_days == null ? [] : local.table_folders) : {
    id         = "cold-${folder}"
    enabled    = true
    filter     = { prefix = "archive/v1/${folder}/" }
    transition = [{ days = var.cold_days, storage_class = "STANDARD_IA" }]
  }]
}

output "lifecycle_rules" {
  description = "Of the archive's bucket, as the S3 module takes them"
  value       = concat([local.abort_rule, local.probe_rule], local.noncurrent_rules, local.cold_rules)
}
