local phase = obj.status ~= nil and obj.status.phase or "Pending"
local ended = phase == "Succeeded" or phase == "Failed"
return {
  ["abort"] = {["disabled"] = ended},
  ["retry"] = {["disabled"] = phase ~= "Failed"}
}
