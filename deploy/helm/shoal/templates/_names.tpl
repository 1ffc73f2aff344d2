{{/* Names and labels. */}}

{{- define "shoal.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains "shoal" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-shoal" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Of what belongs to no namespace. */}}
{{- define "shoal.nodeRole" -}}
{{- printf "%s-%s-node" .Release.Namespace (include "shoal.fullname" .) -}}
{{- end -}}

{{- define "shoal.selector" -}}
app.kubernetes.io/name: shoal
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: agent
{{- end -}}

{{/* Of the agents of every release. */}}
{{- define "shoal.agents" -}}
app.kubernetes.io/name: shoal
app.kubernetes.io/component: agent
{{- end -}}

{{/* Of the Job that prewarms: no Service and no policy for agents takes it for one. */}}
{{- define "shoal.prewarmSelector" -}}
app.kubernetes.io/name: shoal
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: prewarm
{{- end -}}

{{- define "shoal.labels" -}}
{{ include "shoal.selector" . }}
{{ include "shoal.release" . }}
{{- end -}}

{{- define "shoal.release" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "shoal.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The cluster's Secret, and those with credentials for registries, the chart's own first. */}}
{{- define "shoal.secretName" -}}
{{- .Values.swarm.existingSecret | default (printf "%s-swarm" (include "shoal.fullname" .)) -}}
{{- end -}}

{{- define "shoal.credentialsName" -}}
{{- printf "%s-credentials" (include "shoal.fullname" .) -}}
{{- end -}}

{{- define "shoal.credentials" -}}
{{- $names := .Values.credentials.existingSecrets -}}
{{- if .Values.credentials.registries }}{{ $names = prepend $names (include "shoal.credentialsName" .) }}{{ end -}}
{{- dict "names" $names | toJson -}}
{{- end -}}

{{/* Families of addresses of the Services. */}}
{{- define "shoal.serviceFamilies" -}}
ipFamilyPolicy: {{ ternary "RequireDualStack" "SingleStack" (eq (len .Values.ipFamilies) 2) }}
ipFamilies:
  {{- toYaml .Values.ipFamilies | nindent 2 }}
{{- end -}}

{{/* The pools as a map; without any, one for all nodes, whose name is empty. */}}
{{- define "shoal.pools" -}}
{{- .Values.pools | default (dict "" dict) | toJson -}}
{{- end -}}

{{- define "shoal.poolName" -}}
{{- if .name -}}{{ printf "%s-%s" .fullname .name }}{{- else -}}{{ .fullname }}{{- end -}}
{{- end -}}
