{{- define "flowstill.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 53 | trimSuffix "-" }}
{{- end }}

{{- define "flowstill.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" }}
{{- else if contains (include "flowstill.name" .) .Release.Name }}
{{- .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "flowstill.name" .) | trunc 53 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "flowstill.selectorLabels" -}}
app.kubernetes.io/name: {{ include "flowstill.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end }}

{{- /* A Service's name begins with a letter and has no dots; a release's may do otherwise. */}}
{{- define "flowstill.serviceName" -}}
{{- $name := printf "%s-operator" (include "flowstill.fullname" .) | replace "." "-" }}
{{- regexReplaceAll "^([0-9])" $name "n${1}" }}
{{- end }}

{{- define "flowstill.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "flowstill.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: flowstill
{{- end }}

{{- define "flowstill.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "flowstill.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* NAME of pvc://NAME[/PATH]: of the store, or of the work where the store is a bucket */}}
{{- define "flowstill.claimName" -}}
{{- $uri := ternary .Values.store.work .Values.store.uri (hasPrefix "s3://" .Values.store.uri) }}
{{- regexReplaceAll "^pvc://([^/]+).*$" $uri "${1}" }}
{{- end }}

{{- /* The port of http(s)://HOST[:PORT] */}}
{{- define "flowstill.port" -}}
{{- $named := regexFind ":[0-9]+/?$" . }}
{{- if $named }}{{ $named | trimPrefix ":" | trimSuffix "/" }}{{ else }}{{ ternary 80 443 (hasPrefix "http://" .) }}{{ end }}
{{- end }}

{{- /* The ports of the stores that children call, separated by spaces; of a proxy, where there is one */}}
{{- define "flowstill.storePorts" -}}
{{- $ports := list }}
{{- with .Values.store }}
{{- if or (hasPrefix "s3://" .uri) .s3.buckets }}
{{- $ports = append $ports (include "flowstill.port" (default "https://s3" .s3.endpoint)) }}
{{- end }}
{{- if .hub.enabled }}
{{- $ports = append $ports (include "flowstill.port" .hub.endpoint) }}
{{- end }}
{{- if and $ports .proxy }}
{{- $ports = append $ports (include "flowstill.port" .proxy) }}
{{- end }}
{{- end }}
{{- join " " (uniq $ports) }}
{{- end }}

{{- /* REPOSITORY@DIGEST or REPOSITORY:TAG of (list ROOT IMAGE) */}}
{{- define "flowstill.image" -}}
{{- $root := index . 0 }}{{ $image := index . 1 }}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}
{{- else }}{{ $image.repository }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end }}
{{- end }}

{{- /* Where pods of the operator's image run, how they get it, and what they may not */}}
{{- define "flowstill.operatorPod" -}}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with .Values.operator.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.operator.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.operator.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.operator.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "flowstill.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
