-- Publishes 128 bytes of text as fast as answers come; with a depth, that many requests in flight on each connection.
--
--   wrk --threads 1 --connections 64 --duration 10s --script bench/wrk/publish.lua http://127.0.0.1:8080 -- [DEPTH]
--
-- wrk counts each answer of a pipeline as a request; its latencies are those of a closed loop, and no promise.

function init(arguments)
  local depth = tonumber(arguments[1]) or 1
  local headers = { ["Content-Type"] = "text/plain" }
  local one = wrk.format("POST", "/pub/wrk", headers, string.rep("x", 128))
  requests = string.rep(one, depth)
end

function request()
  return requests
end
