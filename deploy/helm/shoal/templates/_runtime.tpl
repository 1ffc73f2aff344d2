{{/* The container that points the node's container runtime at the agent. */}}
{{- define "shoal.runtimeContainer" -}}
{{- if eq .Values.exposure.mode "nodePort" -}}
{{- fail "runtime.configure needs exposure.mode hostNetwork or hostPort: from a pod, the node's own address of a node port is not known" -}}
{{- end -}}
- name: runtime
  image: {{ include "shoal.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args:
    - runtime
    - install
    # Until the pod ends, and then everything as it was.
    - --hold
    - --root=/host
    - --record={{ .Values.store.hostPath }}/runtime.json
    {{- range .Values.runtime.types }}
    - --runtime={{ . }}
    {{- end }}
    - --mirror=http://{{ ternary "127.0.0.1" "[::1]" (has "IPv4" .Values.ipFamilies) }}:{{ .Values.exposure.port }}
    {{- range .Values.runtime.registries }}
    - --registry={{ . }}
    {{- else }}
    - --default
    {{- end }}
    - --unable-after={{ .Values.runtime.unableAfter }}
    - --able-after={{ .Values.runtime.ableAfter }}
    {{- with .Values.runtime.removeTaint }}
    - --remove-taint={{ . }}
    - --node=$(NODE_NAME)
  env:
    - name: NODE_NAME
      valueFrom:
        fieldRef: { fieldPath: spec.nodeName }
    {{- end }}
  securityContext:
    # The runtime's configuration is root's. The one capability is for the agent's directory and its admin socket, which are the agent's alone.
    runAsNonRoot: false
    runAsUser: 0
    runAsGroup: 0
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
      add: [DAC_OVERRIDE]
  resources:
    requests: { cpu: 1m, memory: 16Mi }
    limits: { memory: 64Mi }
  volumeMounts:
    - { name: admin, mountPath: /run/shoal }
    - { name: store, mountPath: {{ printf "/host%s" .Values.store.hostPath }} }
    {{- if .Values.runtime.removeTaint }}
    - { name: service-account, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true }
    {{- end }}
    {{- range $index, $path := .Values.runtime.hostPaths }}
    - { name: runtime-{{ $index }}, mountPath: {{ printf "/host%s" $path }} }
    {{- end }}
{{- end -}}
