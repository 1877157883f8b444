import asyncio, time
import pytest, pytest_asyncio
from faults.interceptor import interceptor_of
from end_to_end.outages import audit_blocked
pytestmark = [pytest.mark.servers, pytest.mark.timeout(300, func_only=True)]

async def test_scratch(cluster, new_service, servers):
    async with interceptor_of(cluster.nomad_address) as n, interceptor_of(cluster.vault_address) as v, interceptor_of(cluster.consul_address) as c:
        t=time.monotonic()
        s = await asyncio.to_thread(new_service, nomad_address=n.url, vault_address=v.url, consul_address=c.url, resync_interval=1, observation_max_age=4, liveness_interval=1, upstream_timeout=3)
        print("start", time.monotonic()-t)
        async def show(name, work):
            marks=[len(x.asked) for x in (n,v,c)]
            t=time.monotonic()
            await work
            print("==", name, round(time.monotonic()-t,2))
            for m,x in zip(marks,(n,v,c)):
                for a in x.asked[m:]:
                    print("  ", a.method, a.path[:110])
        await show("ensure", s.ensure("ada"))
        await show("recreate", s.do("ada","recreate"))
        print((await servers.job(s.job_id("ada")))["Version"])
        await show("rotate", s.do("ada","rotate-password"))
        await show("stop", s.do("ada","stop"))
        await show("start", s.do("ada","start"))
        t=time.monotonic(); await asyncio.to_thread(s.kill); await asyncio.to_thread(s.start); print("restart", time.monotonic()-t)
        await show("delete", s.do("ada","delete", workspace="delete"))
        ev = await s.call("GET","/v1/events", role="operator", limit="500")
        for e in ev.body["items"]: print(e)
        print((await s.call("GET","/v1/stacks/ada/events", role="operator")).status)
        async with audit_blocked(cluster,"vault"):
            print("blocked")
            for i in range(3):
                r = await s.call("GET","/readyz")
                print([ (d["name"],d["ok"],d["detail"]) for d in r.body["dependencies"]])
        print((await s.call("GET","/readyz")).body)
        await asyncio.to_thread(s.kill)
