-- Argo CD knows who clicked, and does not tell: its own log says it.
if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
local now = os.date("!%Y-%m-%dT%H:%M:%SZ")
obj.metadata.annotations["flowstill.dev/retry"] = now .. " argocd: by the action retry in Argo CD"
return obj
