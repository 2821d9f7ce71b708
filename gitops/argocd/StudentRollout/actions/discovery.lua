local phase = obj.status ~= nil and obj.status.phase or "Pending"
local ends = {
  Completed = true, Rejected = true, Inconclusive = true, Superseded = true, RolledBack = true, Failed = true
}
return {
  ["approve"] = {["disabled"] = phase ~= "AwaitingApproval"},
  ["abort"] = {["disabled"] = ends[phase] == true},
  ["retry"] = {["disabled"] = phase ~= "Failed" and phase ~= "RolledBack"}
}
