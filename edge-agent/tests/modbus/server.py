"""A Modbus device for the tests: `server.py tcp PORT` or `server.py rtu PATH`."""

import asyncio
import math
import sys

from pymodbus.server import StartAsyncSerialServer, StartAsyncTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

coils = [SimData(0, values=[False, True] * 8, datatype=DataType.BITS)]
discrete = [SimData(0, values=[True] * 16, datatype=DataType.BITS)]
# 102 and 103 do not exist: a request that crosses them is refused.
holding = [
    SimData(100, values=12.5, datatype=DataType.FLOAT32),
    SimData(104, values=70_000, datatype=DataType.UINT32),
    SimData(106, values=math.nan, datatype=DataType.FLOAT32),
]
inputs = [SimData(0, values=[-125, 9_999], datatype=DataType.INT16)]
device = SimDevice(1, simdata=(coils, discrete, holding, inputs))

kind, place = sys.argv[1:]
if kind == "tcp":
    asyncio.run(StartAsyncTcpServer(device, address=("127.0.0.1", int(place))))
else:
    # A pseudo terminal has no parity bit.
    asyncio.run(StartAsyncSerialServer(device, port=place, baudrate=19_200, parity="N"))
