-- Whole sessions of five clicks for wrk, which asks again as soon as it is answered; against serve.py on a model of 37,483 items:
--   wrk -t 1 -c 16 -d 10s --latency -s benchmarks/serve_wrk.lua http://localhost:8080/v1/recommend

wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
math.randomseed(1)

function request()
  local clicks = {}
  for click = 1, 5 do clicks[click] = '"' .. math.floor(37483 * math.random() ^ 3) .. '"' end
  return wrk.format(nil, nil, nil, '{"sessions": [[' .. table.concat(clicks, ",") .. ']], "k": 20}')
end
