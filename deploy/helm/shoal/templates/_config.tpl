{{/*
The configuration: what the chart decides, over which the user's `config` and a pool's are laid; then as TOML.
Helm reads every number as a float, so whole numbers are written as such here; `toToml` would write 5001.0.
*/}}

{{- define "shoal.config.base" -}}
{{- $v4 := has "IPv4" .Values.ipFamilies -}}
{{- $v6 := has "IPv6" .Values.ipFamilies -}}
{{- $host := eq .Values.exposure.mode "hostNetwork" -}}
{{- $port := int .Values.exposure.port -}}
{{- /* In a pod's own network the runtime comes from outside; on the node's, only loopback is listened at. */ -}}
{{- $listeners := list -}}
{{- if $host -}}
  {{- if $v4 }}{{ $listeners = append $listeners (dict "address" (printf "127.0.0.1:%d" $port)) }}{{ end -}}
  {{- if $v6 }}{{ $listeners = append $listeners (dict "address" (printf "[::1]:%d" $port)) }}{{ end -}}
{{- else -}}
  {{- $listeners = list (dict "address" (printf "%s:%d" (ternary "[::]" "0.0.0.0" $v6) $port)) -}}
{{- end -}}
{{- $everywhere := ternary "[::]" "0.0.0.0" $v6 -}}
{{- $loopback := ternary "127.0.0.1" "[::1]" $v4 -}}
{{- $observe := ternary $everywhere $loopback (or .Values.observe.exposed (not $host)) -}}
{{- $base := dict
  "registry" (dict "listeners" $listeners)
  "store" (dict "path" "/var/lib/shoal")
  "observe" (dict "address" (printf "%s:%d" $observe (int .Values.observe.port)))
  "admin" (dict "socket" "/run/shoal/admin.sock")
  "upstream" (dict)
  "mirrors" (dict)
-}}
{{- if .Values.swarm.enabled -}}
  {{- $listen := list -}}
  {{- if $v4 }}{{ $listen = append $listen "0.0.0.0" }}{{ end -}}
  {{- if $v6 }}{{ $listen = append $listen "::" }}{{ end -}}
  {{- $name := printf "%s.%s.svc.%s" (include "shoal.fullname" .) .Release.Namespace .Values.swarm.clusterDomain -}}
  {{- $swarm := dict "secret_file" "/run/secrets/shoal/swarm/secret" "listen" $listen "port" .Values.swarm.port
    "data_port" .Values.swarm.dataPort "join" (prepend .Values.swarm.join $name) -}}
  {{- if .Values.swarm.otherSecret }}{{ $_ := set $swarm "other_secret_file" "/run/secrets/shoal/other/secret" }}{{ end -}}
  {{- $_ := set $base "swarm" $swarm -}}
{{- end -}}
{{- with (include "shoal.credentials" . | fromJson).names -}}
  {{- $files := list -}}
  {{- range $index, $name := . }}{{ $files = append $files (printf "/run/secrets/shoal/registries/%d.json" $index) }}{{ end -}}
  {{- $_ := set $base.upstream "docker_config" $files -}}
{{- end -}}
{{- if .Values.runtimeContent.enabled -}}
  {{- $_ := set $base.store "runtime_content" "/run/runtime-content" -}}
{{- end -}}
{{- $base | toJson -}}
{{- end -}}

{{/* OpenShift's entries as mirror sets. */}}
{{- define "shoal.config.sets" -}}
{{- $sets := list -}}
{{- range $kind, $entries := dict "digests" .Values.imageDigestMirrors "tags" .Values.imageTagMirrors -}}
  {{- range $index, $entry := $entries -}}
    {{- $set := dict "name" (printf "%s[%d]" (ternary "imageTagMirrors" "imageDigestMirrors" (eq $kind "tags")) $index)
      "source" $entry.source "mirrors" $entry.mirrors "serves" $kind -}}
    {{- if eq $kind "tags" }}{{ $_ := set $set "tag_order" "mirror-first" }}{{ end -}}
    {{- if eq ($entry.mirrorSourcePolicy | default "") "NeverContactSource" }}{{ $_ := set $set "never_contact_source" true }}{{ end -}}
    {{- $sets = append $sets $set -}}
  {{- end -}}
{{- end -}}
{{- dict "sets" $sets | toJson -}}
{{- end -}}

{{/* Refuses a key that another value of the chart decides. */}}
{{- define "shoal.config.refuse" -}}
{{- range $key, $instead := dict
  "registry.listeners" "exposure" "store.path" "store.hostPath" "store.runtime_content" "runtimeContent"
  "swarm.secret_file" "swarm.existingSecret" "swarm.other_secret_file" "swarm.otherSecret" "swarm.listen" "ipFamilies"
  "swarm.port" "swarm.port" "swarm.data_port" "swarm.dataPort" "swarm.join" "swarm.join" "swarm.zone" "pools or zoneFrom"
  "observe.address" "observe" "admin.socket" "admin.hostPath" "upstream.docker_config" "credentials" -}}
  {{- $path := splitList "." $key -}}
  {{- $table := index $.config (first $path) | default dict -}}
  {{- if hasKey $table (last $path) -}}
    {{- fail (printf "%s.%s is decided by the chart; set the value %s instead" $.where $key $instead) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Refuses an agent that Kubernetes would kill in the middle of its end. */}}
{{- define "shoal.config.ends" -}}
{{- $deadline := dig "shutdown" "drain_deadline" "15s" .config -}}
{{- if kindIs "string" $deadline -}}
{{- if ge (include "shoal.seconds" $deadline | int) (int .grace) -}}
{{- fail (printf "config.shutdown.drain_deadline is %s, and Kubernetes kills after terminationGracePeriodSeconds, which is %d: set that above it" $deadline (int .grace)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A duration as the agent reads it, in whole seconds. What is none counts nothing: the agent says so. */}}
{{- define "shoal.seconds" -}}
{{- $seconds := 0 -}}
{{- range regexFindAll "[0-9]+ *[a-z]+" . -1 -}}
{{- $unit := regexFind "[a-z]+" . -}}
{{- $factor := 0 -}}
{{- if has $unit (list "s" "sec" "secs" "second" "seconds") -}}{{- $factor = 1 -}}
{{- else if has $unit (list "m" "min" "mins" "minute" "minutes") -}}{{- $factor = 60 -}}
{{- else if has $unit (list "h" "hr" "hrs" "hour" "hours") -}}{{- $factor = 3600 -}}
{{- end -}}
{{- $seconds = add $seconds (mul (regexFind "[0-9]+" . | int) $factor) -}}
{{- end -}}
{{- $seconds -}}
{{- end -}}

{{/* The whole configuration of a pool, as TOML. Takes root, pool and the pool's name. */}}
{{- define "shoal.config" -}}
{{- include "shoal.config.refuse" (dict "config" .root.Values.config "where" "config") -}}
{{- $own := .pool.config | default dict -}}
{{- include "shoal.config.refuse" (dict "config" $own "where" (printf "pools.%s.config" .name)) -}}
{{- $user := mergeOverwrite (deepCopy .root.Values.config) (deepCopy $own) -}}
{{- $config := mergeOverwrite (include "shoal.config.base" .root | fromJson) $user -}}
{{- include "shoal.config.ends" (dict "config" $config "grace" .root.Values.terminationGracePeriodSeconds) -}}
{{- $sets := (include "shoal.config.sets" .root | fromJson).sets -}}
{{- if $sets -}}
  {{- $_ := set $config.mirrors "sets" (concat ($config.mirrors.sets | default list) $sets) -}}
{{- end -}}
{{- include "shoal.toml.table" (dict "path" "" "table" $config) | trim -}}
{{- end -}}

{{/* A table: first its own values, then the tables in it, then its lists of tables. */}}
{{- define "shoal.toml.table" -}}
{{- $path := .path -}}
{{- range $key, $value := .table -}}
  {{- if not (or (kindIs "map" $value) (kindIs "invalid" $value) (include "shoal.toml.isTables" $value)) }}
{{ include "shoal.toml.key" $key }} = {{ include "shoal.toml.value" $value }}
  {{- end -}}
{{- end -}}
{{- range $key, $value := .table -}}
  {{- $inner := printf "%s%s%s" $path (ternary "." "" (ne $path "")) (include "shoal.toml.key" $key) -}}
  {{- if kindIs "map" $value -}}
    {{- /* TOML makes tables on the way to others by itself. */ -}}
    {{- if include "shoal.toml.hasOwn" $value }}

[{{ $inner }}]
    {{- end -}}
    {{- include "shoal.toml.table" (dict "path" $inner "table" $value) }}
  {{- else if include "shoal.toml.isTables" $value -}}
    {{- range $value }}

[[{{ $inner }}]]
    {{- include "shoal.toml.table" (dict "path" $inner "table" .) }}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether a table has values of its own. */}}
{{- define "shoal.toml.hasOwn" -}}
{{- range $value := . -}}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value) (include "shoal.toml.isTables" $value)) -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{- define "shoal.toml.isTables" -}}
{{- if kindIs "slice" . -}}{{- if . -}}{{- if kindIs "map" (first .) -}}yes{{- end -}}{{- end -}}{{- end -}}
{{- end -}}

{{- define "shoal.toml.key" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . -}}{{ . }}{{- else -}}{{ toJson . }}{{- end -}}
{{- end -}}

{{- define "shoal.toml.value" -}}
{{- if kindIs "slice" . -}}
{{- $items := list -}}{{- range . }}{{ $items = append $items (include "shoal.toml.value" .) }}{{ end -}}
[{{ join ", " $items }}]
{{- else if kindIs "float64" . -}}
{{- if eq (floor .) . -}}{{ printf "%.0f" . }}{{- else -}}{{ toJson . }}{{- end -}}
{{- else -}}
{{- toJson . -}}
{{- end -}}
{{- end -}}
