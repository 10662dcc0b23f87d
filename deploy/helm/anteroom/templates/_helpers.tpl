{{/* The beginning of every name. Kubernetes labels Redis' pod with the name of its StatefulSet and
11 characters more, in all 63 at most. */}}
{{- define "anteroom.name" -}}
{{- $name := .Release.Name }}
{{- if not (contains "anteroom" $name) }}{{ $name = printf "%s-anteroom" $name }}{{ end }}
{{- $name | trunc 46 | trimSuffix "-" }}
{{- end }}

{{/* Labels by which pods are selected. Takes a list: the root and the component. */}}
{{- define "anteroom.selector" -}}
app.kubernetes.io/name: anteroom
app.kubernetes.io/instance: {{ (first .).Release.Name | quote }}
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{- define "anteroom.labels" -}}
{{ include "anteroom.selector" . }}
app.kubernetes.io/version: {{ (first .).Values.image.tag | default (first .).Chart.AppVersion | trunc 63 | trimAll "-_." | quote }}
app.kubernetes.io/managed-by: {{ (first .).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (first .).Chart.Name (first .).Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Metadata of a pod of the gateway or the room service. Without the chart's version, so that
a new chart restarts pods only if it changes them. */}}
{{- define "anteroom.podMetadata" -}}
{{- $root := first . -}}
{{- $component := last . -}}
{{- $values := get $root.Values $component -}}
labels:
  {{- include "anteroom.selector" . | nindent 2 }}
  {{- with $values.podLabels }}{{ toYaml . | nindent 2 }}{{ end }}
{{- $annotations := dict }}
{{- if $root.Values.monitoring.annotations }}
{{- $port := ternary "9181" "9101" (eq $component "gateway") }}
{{- $annotations = dict "prometheus.io/scrape" "true" "prometheus.io/port" $port "prometheus.io/path" "/metrics" }}
{{- end }}
{{- with merge (deepCopy $values.podAnnotations) $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What the specs of all pods have in common. Takes a list: the root and the component. */}}
{{- define "anteroom.podSpec" -}}
{{- $root := first . -}}
{{- $component := last . -}}
{{- $pod := (get $root.Values $component).pod -}}
# Nothing here calls the API of Kubernetes.
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ quote . }}
  {{- end }}
{{- end }}
{{- if not (or (eq $component "redis") (hasKey $pod "topologySpreadConstraints")) }}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "anteroom.selector" (list $root $component) | nindent 8 }}
    # Each version is spread for itself: pods that an update will remove do not count.
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- with $pod }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "anteroom.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "anteroom.image" -}}
{{- $root := first . -}}
image: {{ printf "%s/%s:%s" $root.Values.image.repository (last .) ($root.Values.image.tag | default $root.Chart.AppVersion) }}
{{- with $root.Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end }}

{{/* Environment variables that gateway and room service have in common. */}}
{{- define "anteroom.env" -}}
{{- $root := first . -}}
{{- $values := get $root.Values (last .) -}}
- name: REDIS
  {{- with $root.Values.redis }}
  {{- if .existingSecret }}
  valueFrom:
    secretKeyRef:
      name: {{ quote .existingSecret }}
      key: {{ quote .key }}
  {{- else }}
  value: {{ .url | default (printf "redis://%s-redis:6379/0" (include "anteroom.name" $root)) | quote }}
  {{- end }}
  {{- end }}
- name: PARTITIONS
  value: {{ toJson $root.Values.partitions | quote }}
{{- if not (hasKey $values.settings "GOMAXPROCS") }}
- name: GOMAXPROCS
  valueFrom:
    resourceFieldRef:
      resource: requests.cpu # rounded up; 0, if none is requested, leaves it to Go
{{- end }}
{{- $limit := dig "limits" "memory" "" $values.resources }}
{{- if and $limit (not (hasKey $values.settings "GOMEMLIMIT")) }}
- name: GOMEMLIMIT
  value: {{ printf "%dMiB" (div (mul (regexFind "^[0-9]+" $limit | int64) (ternary 1024 1 (hasSuffix "Gi" $limit)) 85) 100) }}
{{- end }}
{{- range $name, $value := $values.settings }}
- name: {{ $name }}
  {{- /* toJson, because 1048576 would be printed as 1.048576e+06. */}}
  value: {{ if kindIs "string" $value }}{{ quote $value }}{{ else }}{{ toJson $value | quote }}{{ end }}
{{- end }}
{{- end }}

{{/* Probes of the gateway and the room service. */}}
{{- define "anteroom.probes" -}}
# Neither port is open while a process waits for Redis, up to 15 s; then it says so and ends.
startupProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 1
  failureThreshold: 30
# Only whether the process runs: if Redis is away, a restart would not help, and would cost
# every socket.
livenessProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 2
  timeoutSeconds: 3 # the process itself gives up after 2 s
{{- end }}
